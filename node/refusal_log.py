"""What the log gets of refusals: the detail that a caller isn't told (`KmsError.detail`, never key material).

Whoever is refused may ask again as fast as a connection allows; the log must not grow with that. So there is a line for
each code once in a while, which says how many were left out since the last.
"""

import structlog
import trio

from keycluster.cluster.wire.errors import KmsError

EVERY_S = 1.0  # For each code: some forty lines a second are the most that all callers together can bring about.

log = structlog.get_logger(__name__)


class RefusalLog:
    """One node's. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._next_at: dict[str, float] = {}  # By code: when there may be another line.
        self._left_out: dict[str, int] = {}

    def note(self, operation: str, error: KmsError) -> None:
        """`operation` is as asked for, or what else was tried. Nothing to do where an error has no detail."""
        if not error.detail:
            return
        now, code = trio.current_time(), error.code
        if now < self._next_at.get(code, now):
            self._left_out[code] = self._left_out.get(code, 0) + 1
            return
        self._next_at[code] = now + EVERY_S
        left_out = self._left_out.pop(code, 0)
        log.warning("refused", operation=operation, code=code, detail=error.detail, left_out=left_out)
