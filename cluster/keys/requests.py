"""Requests that were already carried out or refused: a repeat gets the first outcome (security.md, 7).

A repeat comes when an answer was lost: from a client, or from a node that forwards a held command again. It is known by
its request id among its principal's. The same id with other parameters is an error, and changes nothing.

Refusals are remembered like successes. Say a forwarded command is delayed, its repeat is refused and the refusal
answered, the client changes what was wrong, and then the first copy arrives: carried out now, it would do what the
client was told did not happen. Refusals that only say "try again" (`retryable`) are not remembered: their repeats must
be able to succeed.

How much is remembered, per principal: each request for `REMEMBERED_NS` (10 minutes); beyond `REMEMBERED_FREELY` those
older than `REMEMBERED_LEAST_NS` (3 minutes: AWS's SDKs wait a minute for an answer before they ask again) are dropped
early; at `REMEMBERED_MAX` new requests are throttled rather than the young ones forgotten. Each request drops a few of
its own principal's, each Tick a few of everybody's, so no entry pays for many.

All of this is running time, which no wall clock moves and which stands still while nobody leads (timekeeping.py).

What is forgotten must not come again. A caller's command carries the running time of the newest entry that the node had
applied which took it from its caller, and more than `AGE_NS_MAX` after that it is refused, unless it is a repeat that
is remembered. Why that is enough: let a request be carried out at running time C and forgotten, so that it is C +
`REMEMBERED_LEAST_NS` by now or later. A copy that isn't too old is of a node that had applied an entry of C +
`REMEMBERED_LEAST_NS` - `AGE_NS_MAX`, so the request's first copy too, before its caller gave it this one. No clock of
any node enters into that; only callers who go on asking for minutes for what has been done could have it twice.
"""

from keycluster.cluster.invariant import InvariantBroken, require
from keycluster.cluster.keys.commands import (
    NO_REQUEST_ID,
    Command,
    CommandMalformed,
    Outcome,
    decode_outcome,
    encode_outcome,
)
from keycluster.cluster.keys.records import (
    PrincipalRecord,
    RequestOrderRecord,
    RequestRecord,
    StateWriter,
    Table,
    decode_record,
    load,
    principal_row,
    request_order_row,
    request_row,
    store,
)
from keycluster.cluster.types import SECOND, RunningTime
from keycluster.cluster.wire.errors import (
    DependencyTimeoutException,
    IdempotentParameterMismatchException,
    ThrottlingException,
)

REMEMBERED_NS = 600 * SECOND
REMEMBERED_LEAST_NS = 180 * SECOND
AGE_NS_MAX = 30 * SECOND
"""Twice what a command's date may be behind when it is taken (`AHEAD_NS_MAX` in cluster_time.py), and far more than the
few seconds that a node holds it while nobody leads. A small part of the least that is remembered: see above."""
AGED_TEXT = (
    "This copy of the request was under way for too long and was not carried out; an earlier one may have been. "
    "It may be repeated."
)
REMEMBERED_FREELY = 10_000
REMEMBERED_MAX = 400_000
DROPPED_PER_REQUEST = 3  # More than one: a full memory shrinks.
DROPPED_PER_TICK = 128
PRINCIPALS_PER_TICK = 16


def is_remembered(command: Command) -> bool:
    """The region's own commands aren't: they say what they expect to find, and do nothing where they don't find it."""
    return not command.caller.is_region and command.request_id != NO_REQUEST_ID


def check_age(command: Command, now: RunningTime) -> None:
    """Refuses a new caller's command that was under way for too long, or is dated by a time that no entry has had.

    Raises DependencyTimeoutException. That says "it may have been made": of another copy, forgotten since, it may.
    """
    if not 0 <= now - command.asked <= AGE_NS_MAX:
        raise DependencyTimeoutException(AGED_TEXT)


def recall(state: StateWriter, command: Command, now: RunningTime) -> Outcome | None:
    """The outcome of the request that `command` repeats, None if it is new.

    Raises IdempotentParameterMismatchException.
    """
    row = request_row(principal_row(command.caller.principal), command.request_id)
    request = load(state, Table.REQUESTS, row, RequestRecord)
    if request is None or request.expires <= now:
        return None
    if request.params_hash != command.params_hash:
        raise IdempotentParameterMismatchException("This request id was used before with other parameters")
    try:
        return decode_outcome(request.outcome)
    except CommandMalformed:
        raise InvariantBroken("a remembered outcome doesn't decode") from None


def make_room(state: StateWriter, principal: str, now: RunningTime) -> PrincipalRecord:
    """Forgets a few old requests of `principal`; what is left is for `remember`.

    Raises ThrottlingException when too many young ones remain.
    """
    hashed = principal_row(principal)
    remembered = load(state, Table.PRINCIPALS, hashed, PrincipalRecord)
    if remembered is None:
        return PrincipalRecord(first=0, next=0)
    left, _ = _forget(state, hashed, remembered, now, most=DROPPED_PER_REQUEST)
    if left.next - left.first >= REMEMBERED_MAX:
        raise ThrottlingException("Too many requests by this principal in the last minutes")
    return left


def remember(
    state: StateWriter, command: Command, outcome: Outcome, now: RunningTime, remembered: PrincipalRecord
) -> None:
    """`remembered` is what `make_room` left."""
    hashed = principal_row(command.caller.principal)
    sequence, expires = remembered.next, RunningTime(now + REMEMBERED_NS)
    request = RequestRecord(command.params_hash, encode_outcome(outcome), expires, sequence)
    store(state, Table.REQUESTS, request_row(hashed, command.request_id), request)
    order = RequestOrderRecord(command.request_id, expires)
    store(state, Table.REQUEST_ORDER, request_order_row(hashed, sequence), order)
    store(state, Table.PRINCIPALS, hashed, PrincipalRecord(remembered.first, sequence + 1))


def forget_some(state: StateWriter, after: bytes, now: RunningTime) -> bytes:
    """Drops expired requests of the principals whose rows follow `after`; returns where the next Tick goes on."""
    rows = state.scan(Table.PRINCIPALS, after=after or None, limit=PRINCIPALS_PER_TICK)
    most = DROPPED_PER_TICK
    for hashed, row in rows:
        _, dropped = _forget(state, hashed, decode_record(row, PrincipalRecord), now, most=most)
        after, most = hashed, most - dropped
        if most == 0:
            return after
    return after if len(rows) == PRINCIPALS_PER_TICK else b""


def _forget(
    state: StateWriter, hashed: bytes, remembered: PrincipalRecord, now: RunningTime, *, most: int
) -> tuple[PrincipalRecord, int]:
    """Drops up to `most` requests, oldest first; returns what is left and how many went."""
    first = remembered.first
    while first < remembered.next and first - remembered.first < most:
        row = request_order_row(hashed, first)
        order = load(state, Table.REQUEST_ORDER, row, RequestOrderRecord)
        if order is None:
            raise InvariantBroken(f"request {first} of {remembered} has no order row")
        early = remembered.next - first > REMEMBERED_FREELY
        if order.expires - (REMEMBERED_NS - REMEMBERED_LEAST_NS if early else 0) > now:
            break
        state.delete(Table.REQUEST_ORDER, row)
        _drop_request(state, request_row(hashed, order.request_id), sequence=first)
        first += 1
    left = PrincipalRecord(first, remembered.next)
    if left.first == left.next:
        state.delete(Table.PRINCIPALS, hashed)
    elif left != remembered:
        store(state, Table.PRINCIPALS, hashed, left)
    return left, first - remembered.first


def _drop_request(state: StateWriter, row: bytes, *, sequence: int) -> None:
    """An expired id may have been used again since: then its row belongs to the later request."""
    request = load(state, Table.REQUESTS, row, RequestRecord)
    require(request is None or request.sequence >= sequence, f"request {sequence} is older than its order row")
    if request is not None and request.sequence == sequence:
        state.delete(Table.REQUESTS, row)
