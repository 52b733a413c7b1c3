"""What the checkers of this simulator raise."""

from typing import Final

from keycluster.cluster.invariant import InvariantBroken


class Found(InvariantBroken):
    """A checker found what must not be. `checker` names it, as in reports and in the table of planted bugs."""

    def __init__(self, checker: str, message: str, *, calls: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.checker: Final = checker
        self.calls: Final = calls
        """The numbers of the calls that it is about."""


def demand(condition: bool, checker: str, message: str, *, calls: tuple[int, ...] = ()) -> None:
    """For what is looked at rarely: the message is made each time."""
    if not condition:
        raise Found(checker, message, calls=calls)
