"""Marks at what must happen *sometimes*: a simulation that never gets there has tested less than it seems to.

The idea is FoundationDB's `CODE_PROBE` and Antithesis' `sometimes` assertions. A mark is made once, at the top of a
module, and hit where the thing happens:

    _SNAPSHOT_INSTALLED = Mark("a member catches up by a snapshot")
    …
    _SNAPSHOT_INSTALLED.hit()

Marks stand on rare ways, never on the one that every request takes. A hit is a counter's step; nothing reads it but
simulations, which put all to zero before each run.
"""

from collections.abc import Collection
from typing import Final

EVERYWHERE: Final = ("core", "region")

_all: dict[str, "Mark"] = {}


class Mark:
    """One thing that must be seen. `within` names the simulators that can get there."""

    __slots__ = ("count", "name", "within")

    def __init__(self, name: str, *, within: Collection[str] = EVERYWHERE) -> None:
        if name in _all:
            raise ValueError(f"two marks are called {name!r}")
        self.name = name
        self.within = tuple(within)
        self.count = 0
        _all[name] = self

    def hit(self) -> None:
        self.count += 1


def all_marks() -> list[Mark]:
    """Those of the modules imported so far, by name."""
    return [_all[name] for name in sorted(_all)]


def forget_hits() -> None:
    for mark in _all.values():
        mark.count = 0
