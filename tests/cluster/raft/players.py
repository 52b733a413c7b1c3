"""Playing the others: a single member, the messages that the rest of its region would send, and what it answers."""

from collections.abc import Sequence
from typing import TypeVar

from keycluster.cluster.raft.member import Role
from keycluster.cluster.raft.messages import (
    AppendEntries,
    Entry,
    EntryKind,
    VoteReply,
    VoteRequest,
)
from keycluster.cluster.types import MILLISECOND, LogIndex, NodeId, Term
from tests.cluster.raft.harness import Region, SimMember

M = TypeVar("M")
A, B, C, D = map(NodeId, "abcd")
E_MS = 300


def alone(node: str = "a", voters: Sequence[str] = ("a", "b", "c"), **options: object) -> tuple[Region, SimMember]:
    """One member of a region whose other members the test plays: what it says to them waits in `letters`."""
    region = Region(voters, **options)  # type: ignore[arg-type]  # Passed through.
    for other in voters:
        region[other].is_up = other == node
    return region, region[node]


def said(region: Region, kind: type[M], *, to: str | None = None) -> list[M]:
    """The messages of one kind that are under way, taken out."""
    return [letter.message for letter in region.take(to=to) if isinstance(letter.message, kind)]


def entry(index: int, term: int, payload: bytes = b"x") -> Entry:
    return Entry(Term(term), LogIndex(index), EntryKind.COMMAND, payload)


def append(term: int, prev: tuple[int, int], *entries: Entry, commit: int = 0, number: int = 1) -> AppendEntries:
    return AppendEntries(Term(term), number, LogIndex(prev[0]), Term(prev[1]), LogIndex(commit), entries)


def vote_request(
    term: int, last: tuple[int, int] = (0, 0), *, pre: bool = False, hand_over: bool = False
) -> VoteRequest:
    return VoteRequest(Term(term), LogIndex(last[0]), Term(last[1]), pre, hand_over)


def past_stickiness(region: Region) -> None:
    region.time += E_MS * MILLISECOND


def role_of(member: SimMember) -> Role:
    """Asked anew each time: a type checker takes what an attribute was found to be for what it still is."""
    return member.core.role


def make_candidate(region: Region, member: SimMember) -> None:
    """By a pre-vote of b."""
    region.time = max(region.time, member.core._member.election_due)
    member.tick()
    assert role_of(member) is Role.PRE_CANDIDATE
    member.receive(B, VoteReply(Term(member.core.term + 1), pre=True, granted=True))
    assert role_of(member) is Role.CANDIDATE


def make_leader(region: Region, member: SimMember) -> None:
    make_candidate(region, member)
    member.work()
    member.receive(B, VoteReply(member.core.term, pre=False, granted=True))
    assert member.core.role is Role.LEADER
    member.work()
