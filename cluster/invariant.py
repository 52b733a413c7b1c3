"""What must hold, checked also under `python -O`, where `assert` vanishes."""


class InvariantBroken(Exception):
    """Something that cannot happen happened: the node stops rather than go on with it. The message has the values."""


def require(condition: bool, message: str) -> None:
    """Raises `InvariantBroken` unless `condition` holds."""
    if not condition:
        raise InvariantBroken(message)
