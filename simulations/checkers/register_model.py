"""A register, as the core simulator's clients use it."""

from keycluster.simulations.checkers.history import Call, OutcomeKind


class RegisterModel:
    """Operations: `Write` of `Value`; `CompareAndSet` of `Expected` and `Value`, refused where another value stands;
    `Read`, which answers `Value`. Nothing but None stands there at first."""

    initial: tuple[object] = (None,)

    def step(self, state: tuple[object], call: Call) -> tuple[object] | None:
        """See `linearizability.Model`. States are tuples, since None is a value here."""
        match call.operation:
            case "Write":
                return None if call.kind is OutcomeKind.REFUSED else (call.arguments["Value"],)
            case "CompareAndSet":
                fits = state == (call.arguments["Expected"],)
                if call.kind is OutcomeKind.REFUSED or (call.kind is OutcomeKind.UNKNOWN and not fits):
                    return None if fits else state
                return (call.arguments["Value"],) if fits else None
            case _:
                return state if not call.is_ok or state == (call.value["Value"],) else None

    def is_read(self, call: Call) -> bool:
        """See `linearizability.Model`."""
        return call.operation == "Read"
