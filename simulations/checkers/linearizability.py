"""Whether calls could have happened one at a time, each at some moment between its beginning and its end.

The search is Wing and Gong's (1993) with Lowe's memory of where it has been ("Testing for linearizability", 2017), as
in Porcupine: take a call that no other call ended before, let the model take the step, go on; where no call fits, go
back. A *place* is which calls have happened and the state they led to; one place is never searched twice.

Six things keep the search short, and change no verdict:

* A read that fits happens at once: whatever order has it later stays one with it here. Not so a change that happens to
  change nothing here: it may be needed after another one.
* A call of unknown outcome may happen at any time from its beginning, or never. So it need not be placed, and is only
  tried where it changes something. (One that is known to have been made must be, like all others.)
* Of unknown calls that ask for the same, the one that began first goes first: an order stays one with them swapped.
* An unknown call that the next one, unknown too, makes as if it had never been is not tried before that one.
* Of two places that differ only in that more unknown calls have happened at one of them, that one is not searched: all
  that can come after it can come after the other one.

* Changes are tried in the order of their places, where somebody knows them. What is linearizable mostly is so in the
  order in which the nodes made the changes, which is found without going back once.

Histories fall into partitions (a key, an alias) that are checked one by one: a whole is linearizable if and only if
each object of it is (Herlihy and Wing, 1990, "locality").
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import le
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from keycluster.simulations.checkers.history import NEVER, Call, OutcomeKind

STEPS_MAX: Final = 200_000
"""Steps of the model that a partition may take before the search gives up: about a second."""

S = TypeVar("S")


class Model(Protocol[S]):
    """What an object does, one call after another. States are hashable values that are never changed."""

    initial: S

    def step(self, state: S, call: Call) -> S | None:
        """The state after `call` with the outcome it had, or None where it can't have had it in `state`.

        Of a call of unknown outcome: the state after it was carried out, or `state` itself where it would be refused.
        """
        ...

    def is_read(self, call: Call) -> bool:
        """Whether the call leaves the object as it is, in whatever state; what it teaches of it may go into that."""
        ...


class Verdict(StrEnum):
    LINEARIZABLE = "linearizable"
    VIOLATED = "violated"
    UNDECIDED = "undecided"  # The bound on steps came first.


@dataclass(frozen=True, slots=True)
class Result(Generic[S]):
    verdict: Verdict
    steps: int
    """Of the model."""
    placed: tuple[Call, ...] = ()
    """Of VIOLATED: the longest order that was found, …"""
    state: S | None = None
    """… the state it led to, …"""
    stuck: tuple[Call, ...] = ()
    """… and the calls that had to come next, none of which could."""

    def describe(self) -> str:
        """What is wrong, for a report: the end of the longest order and what doesn't fit there."""
        lines = [f"{self.verdict.value} after {self.steps} steps; {len(self.placed)} calls placed, lastly:"]
        lines += [f"  {call.describe()}" for call in self.placed[-5:]]
        lines.append(f"which leads to {self.state}; there none of these fits:")
        lines += [f"  {call.describe()}" for call in self.stuck]
        return "\n".join(lines)


def check_linearizable(calls: Iterable[Call], model: Model[S], *, steps_max: int = STEPS_MAX) -> Result[S]:
    """Of one partition. Calls that failed certainly are left out: they had no effect and say nothing."""
    return _Search(calls, model, steps_max).run()


class _Place(NamedTuple, Generic[S]):
    """Where a search is. Equal places have the same future."""

    first: int
    """Of the calls that must happen, in the order of their beginnings: the first that hasn't. All before it have."""
    ahead: int
    """Bit n: call `first + n` has happened. Bit 0 is never set."""
    taken: tuple[int, ...]
    """Of each group of equal unknown calls: how many have happened."""
    state: S


@dataclass(slots=True)
class _Frame(Generic[S]):
    """A place on the way, and where to go from there."""

    place: _Place[S]
    placed: int
    """How many calls had happened on the way here: what was placed later is forgotten on the way back."""
    ways: Iterator[tuple[Call, _Place[S]]]


class _TooLong(Exception):
    pass


class _Search(Generic[S]):
    def __init__(self, calls: Iterable[Call], model: Model[S], steps_max: int) -> None:
        ordered = sorted(calls, key=lambda call: call.began)
        self._must = [must for call in ordered if (must := _that_must_happen(call)) is not None]
        self._is_read = [call.kind is OutcomeKind.REFUSED or model.is_read(call) for call in self._must]
        self._groups = _groups([call for call in ordered if call.kind is OutcomeKind.UNKNOWN and call.made == NEVER])
        self._places = [sorted(call.place for call in group) for group in self._groups]
        self._model = model
        self._steps_max = steps_max
        self._steps = 0
        self._seen: dict[tuple[int, int, S], list[tuple[int, ...]]] = {}
        self._placed: list[Call] = []
        self._best: tuple[Call, ...] = ()
        self._best_place = _Place(0, 0, (0,) * len(self._groups), model.initial)

    def run(self) -> Result[S]:
        try:
            is_linearizable = self._search()
        except _TooLong:
            return Result(Verdict.UNDECIDED, self._steps, self._best, self._best_place.state)
        if is_linearizable:
            return Result(Verdict.LINEARIZABLE, self._steps)
        stuck = tuple(self._must[index] for index in self._next(self._best_place)[0])
        return Result(Verdict.VIOLATED, self._steps, self._best, self._best_place.state, stuck)

    def _search(self) -> bool:
        start = self._settle(self._best_place)
        if start.first == len(self._must):
            return True
        self._is_new(start)
        self._best, self._best_place = tuple(self._placed), start
        frames = [_Frame(start, len(self._placed), self._ways(start))]
        while frames:
            frame = frames[-1]
            way = next(frame.ways, None)
            if way is None:
                frames.pop()
                continue
            del self._placed[frame.placed :]
            call, place = way
            self._placed.append(call)
            settled = self._settle(place)
            if settled.first == len(self._must):
                return True
            if self._is_new(settled):
                self._keep_best(settled)
                is_idle = settled == place and place.taken != frame.place.taken
                origin = frame.place.state if is_idle else None
                frames.append(_Frame(settled, len(self._placed), self._ways(settled, origin)))
        return False

    def _is_new(self, place: _Place[S]) -> bool:
        """Whether no search from here on was done that had as many unknown calls left, or more; from now on it is."""
        seen = self._seen.setdefault((place.first, place.ahead, place.state), [])
        if any(all(map(le, taken, place.taken)) for taken in seen):
            return False
        seen.append(place.taken)
        return True

    def _keep_best(self, place: _Place[S]) -> None:
        """Unknown calls that happened don't count: any number of them may be placed in vain."""
        if _reach(place) > _reach(self._best_place):
            self._best, self._best_place = tuple(self._placed), place

    def _settle(self, place: _Place[S]) -> _Place[S]:
        """After all reads that fit."""
        while True:
            for index in self._next(place)[0]:
                call = self._must[index]
                if self._is_read[index] and self._step(place.state, call) == place.state:
                    self._placed.append(call)
                    place = _after(place, index, place.state)
                    break
            else:
                return place

    def _ways(self, place: _Place[S], origin: S | None = None) -> Iterator[tuple[Call, _Place[S]]]:
        """The calls that fit here, with where each leads; those that must happen come first where no place is known.

        `origin`: the state before an unknown call that led here, as long as nothing has needed it.
        """
        indices, end = self._next(place)
        must = [(self._place_of(index), index, -1) for index in indices]
        may = [
            (self._places[number][taken], NEVER, number)
            for number, (taken, group) in enumerate(zip(place.taken, self._groups, strict=True))
            if taken < len(group) and group[taken].began < end
        ]
        for known_place, index, number in sorted(must + may):
            if number < 0:
                state = self._step(place.state, self._must[index])
                if state is not None:
                    yield self._must[index], _after(place, index, state)
            elif (way := self._unknown(place, number, origin if known_place == NEVER else None)) is not None:
                yield way

    def _place_of(self, index: int) -> int:
        """Reads that fit only by what they teach come first; changes without a place before unknown ones without."""
        return -1 if self._is_read[index] else self._must[index].place

    def _unknown(self, place: _Place[S], number: int, origin: S | None) -> tuple[Call, _Place[S]] | None:
        """The next call of a group of unknown ones, unless it changes nothing, or what led here from `origin`
        needn't have been."""
        taken = place.taken[number]
        call = self._groups[number][taken]
        state = self._step(place.state, call)
        if state is None or state == place.state or (origin is not None and state == self._step(origin, call)):
            return None
        return call, place._replace(taken=(*place.taken[:number], taken + 1, *place.taken[number + 1 :]), state=state)

    def _next(self, place: _Place[S]) -> tuple[list[int], int]:
        """The calls that may happen next, and the first end of all that must happen: what begins after it can't.

        No call that begins after that end can end earlier, so the scan stops there.
        """
        indices: list[int] = []
        end = None
        ahead = place.ahead
        for index in range(place.first, len(self._must)):
            call = self._must[index]
            if end is not None and call.began > end:
                break
            if not ahead >> (index - place.first) & 1:
                indices.append(index)
                end = call.ended if end is None else min(end, call.ended)
        return indices, 0 if end is None else end

    def _step(self, state: S, call: Call) -> S | None:
        self._steps += 1
        if self._steps > self._steps_max:
            raise _TooLong
        return self._model.step(state, call)


def _after(place: _Place[S], index: int, state: S) -> _Place[S]:
    """Once the call with that index has happened."""
    first, ahead = place.first, place.ahead | 1 << (index - place.first)
    while ahead & 1:
        first, ahead = first + 1, ahead >> 1
    return _Place(first, ahead, place.taken, state)


def _reach(place: _Place[S]) -> int:
    return place.first + place.ahead.bit_count()


def _that_must_happen(call: Call) -> Call | None:
    """As it counts: what was made without its caller's knowing ended when every node acted on it."""
    if call.kind in (OutcomeKind.OK, OutcomeKind.REFUSED):
        return call
    if call.kind is OutcomeKind.UNKNOWN and call.made != NEVER:
        return replace(call, ended=call.made)
    return None


def _groups(calls: Sequence[Call]) -> list[list[Call]]:
    """Those that ask for the same, together, in the order of their beginnings."""
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(f"{call.operation} {call.arguments!r}", []).append(call)
    return list(groups.values())
