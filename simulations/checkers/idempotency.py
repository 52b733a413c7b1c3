"""One request id, one effect; one CreateKey, one key; and every key that was made is listed, once."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from keycluster.simulations.checkers.history import Call, History, OutcomeKind
from keycluster.simulations.checkers.key_model import DECIDED_BY_REQUEST, DECIDED_BY_STATE
from keycluster.simulations.checkers.partitions import merge_repeats
from keycluster.simulations.checkers.references import key_answered, key_named
from keycluster.simulations.runs import Failure

CHECKER: Final = "idempotency"


def check_idempotency(history: History, *, known_keys: Collection[str] = ()) -> list[Failure]:
    """`known_keys`: ids of keys that were made before the history began."""
    return [
        *_check_repeats(history.calls),
        *_check_made_once(merge_repeats(history.calls)),
        *_check_lists(history.calls, known_keys),
    ]


def _fail(call: Call, message: str) -> Failure:
    return Failure(CHECKER, f"{call.describe()}: {message}", call.returned_ns)


def _check_repeats(calls: Iterable[Call]) -> Iterable[Failure]:
    by_request: dict[str, list[Call]] = {}
    for call in calls:
        if call.request_id is not None and _tells(call):
            by_request.setdefault(call.request_id, []).append(call)
    for repeats in by_request.values():
        first = min(repeats, key=lambda call: (not call.is_ok, call.ended))
        for repeat in repeats:
            if (repeat.operation, repeat.arguments) != (first.operation, first.arguments):
                if not repeat.is_ok:
                    continue  # A node may see that nothing can come of it before it knows that the id is taken.
                yield _fail(repeat, f"the request id of #{first.number} with other parameters was taken")
            elif repeat.outcome != first.outcome:
                yield _fail(repeat, f"#{first.number} had the same request id and another answer")


def _tells(call: Call) -> bool:
    """Whether the answer is that of the request, and not of its caller, a busy node, or a lost connection."""
    return call.is_ok or (call.kind is OutcomeKind.REFUSED and call.code in DECIDED_BY_REQUEST | DECIDED_BY_STATE)


def _check_made_once(requests: Iterable[Call]) -> Iterable[Failure]:
    makers: dict[str, Call] = {}
    for call in requests:
        key = key_answered(call) if call.operation == "CreateKey" else None
        if key is not None and makers.setdefault(key, call) is not call:
            yield _fail(call, f"#{makers[key].number} made that key: {key}")


@dataclass(frozen=True, slots=True)
class _Listing:
    """All pages of one ListKeys."""

    first: Call
    last: Call
    keys: tuple[str, ...]


def _check_lists(calls: list[Call], known_keys: Collection[str]) -> Iterable[Failure]:
    requests = [call for call in merge_repeats(calls) if call.operation == "CreateKey"]
    made = {key: call for call in requests if (key := key_answered(call)) is not None}
    unanswered = sum(call.kind is OutcomeKind.UNKNOWN or _is_in_doubt(call) for call in requests)
    destroyed = {key_named(call) for call in calls if call.operation == "CompleteKeyDeletion"}
    strangers: dict[str, None] = {}
    for listing in _listings(calls):
        listed = set(listing.keys)
        if len(listed) < len(listing.keys):
            yield _fail(listing.last, "a key is listed twice")
        for key, call in made.items():
            if call.ended < listing.first.began and key not in listed | destroyed:
                yield _fail(listing.last, f"{key}, made by #{call.number}, isn't listed")
        strangers.update(dict.fromkeys(key for key in listing.keys if key not in made and key not in known_keys))
        if len(strangers) > unanswered:
            yield _fail(
                listing.last,
                f"{len(strangers)} keys are listed that no answer told of, and {unanswered} CreateKey had no answer: "
                + ", ".join(strangers),
            )
            return


def _is_in_doubt(call: Call) -> bool:
    """Refused for its caller, who may have asked before."""
    return call.kind is OutcomeKind.REFUSED and call.code not in DECIDED_BY_REQUEST | DECIDED_BY_STATE


def _listings(calls: Iterable[Call]) -> Iterable[_Listing]:
    """Those that got to their end."""
    pages = [call for call in calls if call.operation == "ListKeys" and call.is_ok]
    by_marker = {(call.client, call.arguments["Marker"]): call for call in pages if call.arguments.get("Marker")}
    for first in pages:
        if first.arguments.get("Marker"):
            continue
        keys, page = [entry["KeyId"] for entry in first.value["Keys"]], first
        while page.value.get("Truncated"):
            following = by_marker.get((page.client, page.value["NextMarker"]))
            if following is None or following.began < page.ended:
                break
            page = following
            keys += [entry["KeyId"] for entry in page.value["Keys"]]
        else:
            yield _Listing(first, page, tuple(keys))
