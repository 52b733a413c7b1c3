"""What a node's process logs, and what it doesn't."""

import io

import pytest
import structlog

from keycluster.cli.node_process import set_up_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("file", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_logs_show_no_secrets(file: io.StringIO) -> None:
    """Bytes are shown as their length, exceptions without local variables; a line's time, level and event are there."""
    set_up_logging("info", file)
    try:
        log = structlog.get_logger("test")
        log.debug("not this")
        log.info("by mistake", key=b"material of a key")
        try:
            secret = "material of " + "another"
            log.info("never", length=len(secret) // 0)
        except ZeroDivisionError:
            log.warning("a fault", exc_info=True)
    finally:
        structlog.reset_defaults()
    text = file.getvalue()
    assert "material of a" not in text
    assert "<17 bytes>" in text
    assert "ZeroDivisionError" in text
    assert "not this" not in text
    assert "by mistake" in text
