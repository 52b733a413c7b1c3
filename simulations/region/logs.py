"""What the product logs in a run, with the node and the virtual time; and which lines mean that something is wrong."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog
import trio
from structlog.typing import EventDict, WrappedLogger

from keycluster.simulations.region.process import process_of

INFO: Final = 20

TakeLine = Callable[[str, str, str, Mapping[str, Any]], None]
"""Lane, level, event, and the rest of the line."""

_FAULTS_OF_OURS: Final = (
    ("actor failed and is restarted", ""),
    ("peer's stream closed", "undecodable"),
    ("refused", "Error at "),  # `dispatch.py` says so of an exception that nobody foresaw.
    ("refused", "Exception at "),
)
"""Event, and what else stands in the line."""


@contextmanager
def captured_logs(take: TakeLine) -> Iterator[None]:
    """All lines of the product go to `take` and nowhere else; afterwards structlog is as it was."""
    before = structlog.get_config()

    def capture(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        take(_lane(), method, str(event.pop("event")), event)
        raise structlog.DropEvent

    structlog.configure(
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(INFO),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def is_fault_of_ours(level: str, event: str, rest: Mapping[str, Any]) -> bool:
    """Whether a line tells of a mistake in the product, whatever the world has done to it."""
    if level in ("error", "critical", "exception"):
        return True
    text = _text(rest)
    return any(event == suspicious and part in text for suspicious, part in _FAULTS_OF_OURS)


def line_of(event: str, rest: Mapping[str, Any]) -> str:
    return f"{event} {_text(rest)}".strip()


def _text(rest: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(rest.items()))


def _lane() -> str:
    """The node whose process logs."""
    try:
        process = process_of(trio.lowlevel.current_task())
    except RuntimeError:  # Between tasks: a callback of the wire.
        return "wire"
    return process.name.partition("/")[0] if process is not None else "region"
