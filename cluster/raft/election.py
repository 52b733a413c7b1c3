"""Elections: dissertation 3.4, 3.6.1 (who may win), 9.6 (pre-vote), 4.2.3 (removed members don't disturb), 6.4.

    FOLLOWER --time-out--> PRE_CANDIDATE --quorum would vote--> CANDIDATE --quorum voted--> LEADER
        \\-------------------- TimeoutNow from the leader -----------^

A pre-vote changes nothing at anybody, so a member that was cut off doesn't come back with a higher term. A voter that
heard a leader less than E ago (L7) ignores requests: it doesn't even take over their term. One exception (L8): the
leader itself asked for the election, and the request is in the very next term after that leader's.
"""

from keycluster.cluster.marks import Mark
from keycluster.cluster.raft.member import CANDIDATE, FOLLOWER, PRE_CANDIDATE, Member, Role
from keycluster.cluster.raft.messages import TimeoutNow, VoteReply, VoteRequest
from keycluster.cluster.types import Instant, NodeId, Term

_STICKS = Mark("a voter sticks to the leader it heard")
_LOST = Mark("a candidate loses")


class Election:
    def __init__(self, member: Member) -> None:
        self._member = member
        self._votes: dict[NodeId, bool] = {}

    # Campaigning

    @property
    def due(self) -> Instant | None:
        """When `tick` has something to do, for a member that doesn't lead. None: not before another input."""
        m = self._member
        if len(m.memberships.newest.voters) > 1 or not m.is_only_voter:  # The first is all that most need.
            return m.election_due
        if m.role is CANDIDATE:
            return None  # Its vote is being written.
        return m.now if self._may_campaign() else m.election_due

    def tick(self) -> None:
        m = self._member
        due = self.due
        if due is None or m.now < due:
            return
        if self._may_campaign():
            self._campaign_for_pre_vote()
        else:
            m.follow(m.term, None)
            m.draw_election_timeout()

    def on_timeout_now(self, sender: NodeId, message: TimeoutNow) -> None:
        """The leader hands over. Only its own word counts, and only for the term after its own."""
        m = self._member
        if m.role is FOLLOWER and m.leader == sender and message.term == m.term and self._may_campaign():
            self._campaign(hand_over=True)

    def _may_campaign(self) -> bool:
        m = self._member
        return m.may_be_needed_as_leader and not m.is_stalled and not m.is_installing

    def _campaign_for_pre_vote(self) -> None:
        m = self._member
        m.become_pre_candidate()
        self._votes = {m.node: True}
        if m.membership.has_quorum(self._votes):
            self._campaign(hand_over=False)
            return
        request = self._request(Term(m.term + 1), pre=True, hand_over=False)
        for peer in self._other_voters():
            m.outbox.send_unbound(peer, request)

    def _campaign(self, *, hand_over: bool) -> None:
        m = self._member
        m.become_candidate()
        self._votes = {}
        # Held until term, own vote and log are durable: a request that speaks of entries which a crash takes away
        # could win votes that its next life, with a shorter log, would then count.
        request = self._request(m.term, pre=False, hand_over=hand_over)
        for peer in self._other_voters():
            m.outbox.send(peer, request)

    def _request(self, term: Term, *, pre: bool, hand_over: bool) -> VoteRequest:
        log = self._member.log
        return VoteRequest(term, last_index=log.last_index, last_term=log.last_term, pre=pre, hand_over=hand_over)

    def _other_voters(self) -> list[NodeId]:
        m = self._member
        return [peer for peer in m.membership.all_voters if peer != m.node]

    # Voting

    def on_request(self, sender: NodeId, message: VoteRequest, *, leads_surely: bool) -> None:
        """`leads_surely`: this member leads and knows that a quorum still follows it."""
        m = self._member
        is_handed_over = message.hand_over and message.term == m.heard_term + 1
        is_sticky = (leads_surely or m.is_sticky) and not is_handed_over
        up_to_date = m.log.is_up_to_date(last_index=message.last_index, last_term=message.last_term)
        if message.pre:
            # A stalled disk would keep the vote itself from being given.
            granted = message.term > m.term and up_to_date and not is_sticky and not m.is_stalled
            m.outbox.send_unbound(sender, VoteReply(message.term if granted else m.term, pre=True, granted=granted))
            if is_sticky:
                _STICKS.hit()
            return
        if message.term >= m.term and is_sticky:
            return
        if message.term > m.term:
            m.follow(message.term, None)
        granted = message.term == m.term and m.leader is None and m.vote in (None, sender) and up_to_date
        if granted:
            m.vote_for(sender)
        m.outbox.send(sender, VoteReply(m.term, pre=False, granted=granted))

    # Counting

    def on_reply(self, sender: NodeId, message: VoteReply) -> None:
        """Replies of a higher term, except granted pre-votes, never come here."""
        m = self._member
        asked = (PRE_CANDIDATE, Term(m.term + 1)) if message.pre and message.granted else self._asked(message)
        if (m.role, message.term) != asked:
            return
        self._votes[sender] = message.granted
        if m.role is PRE_CANDIDATE and m.membership.has_quorum(self._granted()):
            self._campaign(hand_over=False)
        elif self._is_lost():
            if m.role is CANDIDATE:
                _LOST.hit()
            m.follow(m.term, None)

    def _asked(self, message: VoteReply) -> tuple[Role, Term]:
        return (PRE_CANDIDATE if message.pre else CANDIDATE, self._member.term)

    def count_own_vote(self) -> None:
        """Once it is durable."""
        if self._member.role is CANDIDATE and self._member.outbox.hard_state_is_durable:
            self._votes[self._member.node] = True

    @property
    def is_won(self) -> bool:
        m = self._member
        return m.role is CANDIDATE and m.membership.has_quorum(self._granted())

    def _granted(self) -> list[NodeId]:
        return [voter for voter, granted in self._votes.items() if granted]

    def _is_lost(self) -> bool:
        """Whether those who refused leave no quorum possible."""
        m = self._member
        possible = [voter for voter in m.membership.all_voters if self._votes.get(voter, True)]
        return not m.membership.has_quorum(possible)
