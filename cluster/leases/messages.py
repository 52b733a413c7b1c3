"""What replicas tell each other about leases, applied indexes and time.

The answer carries no instant and no end: an instant means nothing on another node's clock. The holder counts from its
own t0, which it finds in its memory by the nonce (L1).
"""

from typing import Annotated

import msgspec

from keycluster.cluster.types import ClusterTime, LogIndex, Term, WallTime

NONCE_BYTES = 16
DIGEST_BYTES_MAX = 64  # HMAC-SHA-256 has 32.

Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Digest = Annotated[bytes, msgspec.Meta(max_length=DIGEST_BYTES_MAX)]
INTEGER_MAX = 2**63 - 1  # SQLite's; nothing counted here can reach it.
_Count = msgspec.Meta(ge=0, le=INTEGER_MAX)
Count = Annotated[int, _Count]
TermField = Annotated[Term, _Count]
IndexField = Annotated[LogIndex, _Count]
WallField = Annotated[WallTime, _Count]
ClusterTimeField = Annotated[ClusterTime, _Count]


class LeaseAsk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=16):
    """L1: a member asks the leader of `term` for the right to serve."""

    term: TermField
    nonce: Nonce
    applied: IndexField  # What the asker has applied, visible to all its readers.
    wall: WallField  # The asker's own clock: an observation for cluster time.


class LeaseAnswer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=17):
    """L2: granted. What isn't granted isn't answered: the question waits at the leader until it can be."""

    term: TermField
    nonce: Nonce
    commit: IndexField  # The holder serves only once it has applied this (L3).
    settled: IndexField
    time: ClusterTimeField | None  # None: the leader heard no majority's clocks yet.
    median: WallField | None  # The majority's median itself, which `time` runs ahead of after a wrong clock.
    running_ns: Count
    digest_index: IndexField  # The leader's applied state, for comparison with the holder's.
    digest: Digest


class AppliedReport(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=18):
    """L5: the sender has applied `applied`, visible to every reader, caches invalidated."""

    term: TermField
    applied: IndexField
    settled: IndexField  # The newest settled index the sender knows: the leader repeats a lost notice.


class SettledNotice(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=19):
    """L10: everybody who may serve has applied `settled`."""

    term: TermField
    settled: IndexField


LeaseMessage = LeaseAsk | LeaseAnswer | AppliedReport | SettledNotice
