"""Histories written as scripts: who began and ended what, in which order."""

from typing import Any

from keycluster.simulations.checkers.history import REGISTER, Call, History, Members, Outcome, ok, unknown


class Script:
    """A history to which calls are added in order; times are event numbers."""

    def __init__(self) -> None:
        self.history = History()

    def begin(
        self,
        operation: str,
        arguments: Members | None = None,
        *,
        key: str | None = None,
        client: str = "c1",
        request_id: str | None = None,
        access_key_id: str | None = None,
    ) -> Call:
        history = self.history
        given = {} if arguments is None else arguments
        call = history.begin(history.events, client, operation, key, given, request_id=request_id)
        call.access_key_id = access_key_id
        return call

    def end(self, call: Call, outcome: Outcome | None = None, *, key: str | None = None) -> Call:
        self.history.end(call, self.history.events, ok({}) if outcome is None else outcome, "n1", key=key)
        return call

    def do(self, operation: str, arguments: Members | None = None, outcome: Outcome | None = None, **more: Any) -> Call:
        """A call that nothing overlaps."""
        return self.end(self.begin(operation, arguments, **more), outcome)

    # On the register.

    def begin_write(self, value: int) -> Call:
        return self.begin("Write", {"Value": value}, key=REGISTER)

    def begin_read(self) -> Call:
        return self.begin("Read", key=REGISTER)

    def end_read(self, call: Call, value: int) -> Call:
        return self.end(call, ok({"Value": value}))

    def write(self, value: int) -> Call:
        return self.end(self.begin_write(value))

    def read(self, value: int) -> Call:
        return self.end_read(self.begin_read(), value)

    def lose(self, call: Call) -> Call:
        return self.end(call, unknown("DeadlineExceeded"))


def described(key: str, *, KeyState: str = "Enabled", **members: Any) -> Members:  # noqa: N803  # AWS's name of it.
    """A key's metadata, as far as checkers look."""
    deletion = {"DeletionDate": 1.0} if KeyState == "PendingDeletion" else {}
    return {"KeyId": key, "KeyState": KeyState, "Enabled": KeyState == "Enabled", **deletion, **members}
