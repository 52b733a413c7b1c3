"""Details of refusals reach the log, and don't flood it."""

from structlog.testing import capture_logs
from trio.testing import MockClock

from keycluster.cluster.wire.errors import DisabledException, KeyUnavailableException, KMSInternalException
from keycluster.node.refusal_log import EVERY_S, RefusalLog


async def test_detail_is_logged_once_in_a_while_for_each_code(mock_clock: MockClock) -> None:
    """One line at first and one later, with the number of those in between; another code has lines of its own."""
    refusals = RefusalLog()
    with capture_logs() as lines:
        for number in range(100):
            refusals.note("Encrypt", KeyUnavailableException("", detail=f"generation {number}"))
        refusals.note("CreateKey", KMSInternalException("", detail="no region"))
        refusals.note("Encrypt", DisabledException("off"))
        mock_clock.jump(EVERY_S)
        refusals.note("Decrypt", KeyUnavailableException("", detail="generation 2"))
        mock_clock.jump(EVERY_S)
        refusals.note("Decrypt", KeyUnavailableException("", detail="generation 3"))
    told = [(line["operation"], line["code"], line["detail"], line["left_out"]) for line in lines]
    assert told == [
        ("Encrypt", "KeyUnavailableException", "generation 0", 0),
        ("CreateKey", "KMSInternalException", "no region", 0),
        ("Decrypt", "KeyUnavailableException", "generation 2", 99),
        ("Decrypt", "KeyUnavailableException", "generation 3", 0),
    ]
