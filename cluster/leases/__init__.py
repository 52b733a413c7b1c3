"""Serving leases: who may serve, and when a change may be acknowledged (design.md, "Serving leases", L1-L10).

The promise (contract 2): once a change's success has left the leader, no node that may serve lacks it. The leader lends
each member the right to serve for a time L and acknowledges a change only when every member it must still count as a
holder has applied it. Clocks need not agree, only run at about the same rate.

- `messages`: what replicas tell each other about leases (plain values).
- `holder`: one member's own leases: L1 ask, L3 serve.
- `grantor`: the leader's book: L2 grant, L5 acknowledge, L6 a new leader's assumption.
- `removal`: who is being taken out and when the entry that does it may be appended: L9.
- `leadership`: one leadership, from the election to its end: L4, L8 and the times of the above.
- `followership`: what a member tells the leader that it follows: L1's questions, L5's reports.
- `successor`: to whom a leader may hand over.

`cluster/replica.py` puts them together with the Raft core, which itself keeps L7 and its half of L8. No module here
reads a clock or does I/O: `now` is the caller's monotonic clock in nanoseconds, read after the input it comes with.

Why a report needs no term. An applied index names one committed entry for ever, so "member m has applied i" and
"everybody who may serve has applied i" (the settled index) stay true over changes of leader. That is why a new leader
can take reports at their word, and why a lease may be used to its end after its grantor is gone: a new leader counts
every member until its own election + L with the applied index that member reports. A live member therefore serves
through a change of leader without a gap, and holds a write back only by its own lag; a silent one by at most L.
"""

from keycluster.cluster.leases.grantor import LeaseGrantor
from keycluster.cluster.leases.holder import LeaseHolder
from keycluster.cluster.leases.messages import AppliedReport, LeaseAnswer, LeaseAsk, LeaseMessage, SettledNotice

__all__ = ["AppliedReport", "LeaseAnswer", "LeaseAsk", "LeaseGrantor", "LeaseHolder", "LeaseMessage", "SettledNotice"]
