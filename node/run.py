"""Wires one node: the only function that knows all of its parts, and the only one that is handed the whole world.

    seal → secrets → stores → Raft core → replica → driver, proposals, peers → room → dispatch → doors

Actors are started in that order, so that a door opens only when there is something behind it, and stopped in reverse.
A node that is told to stop asks for no lease any more and hands over leadership, then refuses what would need it to
serve and lets the writes under way come to their end: clients go to another node by themselves, and nobody's answer is
lost. It runs on until its last lease has run out, since whoever dies with one holds up the region's next write by L.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import structlog
import trio

from keycluster.cluster.cluster_time import ClockVerdict
from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import Outcome, stamp
from keycluster.cluster.keys.records import Table, load_clock
from keycluster.cluster.keys.timekeeping import destruction_held
from keycluster.cluster.leases.messages import LeaseAsk
from keycluster.cluster.peer_messages import Forward, ForwardReply, Introduction, PeerMessage, ReplicaMessage
from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.raft.core import RaftCore
from keycluster.cluster.raft.errors import RaftError
from keycluster.cluster.raft.messages import Entry
from keycluster.cluster.replica import Replica, ReplicaConfig, StateDiverged
from keycluster.cluster.seams import AddressReport, ServeLimits, World
from keycluster.cluster.store.errors import StoreError
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.recovery import join_up
from keycluster.cluster.store.state import StateStore
from keycluster.cluster.types import SECOND, Instant, LogIndex, NodeId, Term
from keycluster.cluster.witness import RolledBack
from keycluster.node.actors import ActorSpec, OnFailure, Supervisor
from keycluster.node.admission import Admitter
from keycluster.node.config import NodeConfig
from keycluster.node.dispatch import Dispatch
from keycluster.node.doors.aws import AwsDoor
from keycluster.node.doors.limits import door_limits, port_limits
from keycluster.node.doors.native import NativeDoor
from keycluster.node.gate import Gate
from keycluster.node.hardening import Hardening
from keycluster.node.maintenance import Maintenance
from keycluster.node.making import LOG_FOLDER, STATE_FOLDER
from keycluster.node.membership import Directory, MembershipActor
from keycluster.node.moving import Moving
from keycluster.node.operations.admin import AdminHandlers, best_successor
from keycluster.node.peer_link import SPOKEN, PeerVersions
from keycluster.node.peers import Peer, Peers
from keycluster.node.proposals import Proposals
from keycluster.node.raft_driver import DEFAULT_RETENTION, LogRetention, RaftDriver, Stores, newest_stamp
from keycluster.node.room import Room
from keycluster.node.sealing import NodeSecrets
from keycluster.node.suspension import WatchedClock

NONCE_BYTES = 16  # Of lease questions.
HAND_OVER_S_MAX = 2.0  # A stopping leader waits this long for another one to take over.
RETIRE_S_MAX = 2.0  # And any stopping node for the writes under way.
LAST_ANSWERS_S = 0.05  # Their answers leave the doors within this, and the leader's side of a lease ends.
FATAL = (StoreError, StateDiverged, RolledBack, InvariantBroken)
"""Met by whichever actor: nothing is tried again on a store or a state that isn't what it must be."""

log = structlog.get_logger(__name__)


class Node:
    """One node's parts, wired. `run` runs them until `stop` is set or one of them fails."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        world: World,
        secrets: NodeSecrets,
        stores: Stores,
        hardening: Hardening,
        peer_versions: PeerVersions = SPOKEN,
        retention: LogRetention = DEFAULT_RETENTION,
    ) -> None:
        self.config = config
        clock = WatchedClock(world.clock)
        self.world = world = replace(world, clock=clock)
        self.stores = stores
        self._hardening = hardening
        keyring = secrets.keyring()
        view = stores.state.view
        self.directory = Directory(
            node=config.node,
            view=view,
            introduced=[Peer(c.node, c.identity_key, c.peer_address) for c in secrets.contacts],
        )
        self.peers = Peers(
            node=config.node,
            region=config.region,
            network=world.network,
            entropy=world.entropy,
            identity=secrets.peer_identity,
            peer_ca=secrets.peer_ca,
            listen=config.peer.listen,
            directory=self.directory,
            limits=ServeLimits(connections_max=config.peer.connections_max),
            versions=peer_versions,
        )
        self.replica = _make_replica(config, world=world, stores=stores)
        self._stops = False
        self._asked_at: Instant | None = None  # The newest question for a lease.
        self.driver = RaftDriver(
            replica=self.replica,
            stores=stores,
            clock=world.clock,
            disk=world.disk,
            apply_entry=apply_entry,
            send=self._send,
            listener=self,
            retention=retention,
        )
        self.proposals = Proposals(
            node=config.node,
            replica=self.replica,
            view=view,
            clock=world.clock,
            entropy=world.entropy,
            send=self.peers.send,
            pump=self.driver.pump,
        )
        self.membership = MembershipActor(
            node=config.node, replica=self.replica, view=view, clock=world.clock, pump=self.driver.pump
        )
        self.peers.connect_to(self)
        self.room = Room(
            region=config.region, node=config.node, keyring=keyring, entropy=world.entropy, consensus=self.proposals
        )
        self.gate = Gate()
        admin = AdminHandlers(
            room=self.room,
            replica=self.replica,
            clock=world.clock,
            az=config.az,
            pump=self.driver.pump,
            warnings=self._warnings,
        )
        dispatch = Dispatch(self.room, admin=admin.operations())
        admitter = Admitter(secrets=lambda: secrets, consensus=self.proposals, entropy=world.entropy)
        certificate_sha256 = hashlib.sha256(secrets.native_certificate).digest()
        self.native_door = NativeDoor(
            room=self.room,
            dispatch=dispatch,
            gate=self.gate,
            clock=clock,
            certificate_sha256=lambda: certificate_sha256,
            join=admitter.admit,
            limits=door_limits(config.native.connections_max),
        )
        self.aws_door = AwsDoor(
            room=self.room,
            dispatch=dispatch,
            gate=self.gate,
            clock=clock,
            limits=door_limits(config.aws.connections_max),
        )
        self._native_identity = secrets.native_identity

    # Who is told when the replica's state moves (`StateListener`).

    def state_moved(
        self,
        entries: Sequence[Entry],
        outcomes: Sequence[Outcome | None],
        touched: Collection[tuple[int, bytes]],
    ) -> None:
        """Caches first: the replica hears that this is applied only after this returns (rule L5)."""
        self.room.invalidate(touched)
        if any(table == Table.MEMBERS for table, _ in touched):
            self.directory.forget()
            self.peers.members_changed()
        self.proposals.state_moved(entries, outcomes, touched)

    def state_replaced(self) -> None:
        self.room.clear()
        self.directory.forget()
        self.peers.members_changed()
        self.proposals.state_replaced()

    def stepped(self) -> None:
        self.proposals.stepped()

    # What peers say (`PeerReceiver`).

    def receive(self, sender: NodeId, messages: Sequence[PeerMessage]) -> None:
        of_replica: list[ReplicaMessage] = []
        for message in messages:
            if isinstance(message, Forward):
                self.proposals.take_forward(sender, message)
            elif isinstance(message, ForwardReply):
                self.proposals.take_reply(sender, message)
            elif isinstance(message, Introduction):
                self.directory.be_told(message)
                self.peers.members_changed()
            else:
                of_replica.append(message)
        if of_replica:
            self.driver.receive(sender, of_replica)

    def known_of(self, peer: NodeId) -> tuple[Term, LogIndex] | None:
        return self.replica.known_of(peer)

    def learn_known_of_me(self, peer: NodeId, known: tuple[Term, LogIndex] | None) -> None:
        if known is not None:
            self.replica.learn_known_of_me(*known)

    def peer_lost(self, peer: NodeId) -> None:
        self.proposals.peer_lost(peer)

    # Running

    async def run(self, stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until `stop` is set, then hands over and ends. What an actor that must not fail raises comes out."""
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(nursery, fatal=FATAL)
            for spec in self._actors():
                await supervisor.start(spec)
            log.info("node is up", node=self.config.node, region=self.config.region, az=self.config.az)
            task_status.started()
            await stop.wait()
            self._stops = True
            await self._hand_over()
            await self._retire()
            await supervisor.stop()
        log.info("node has stopped", node=self.config.node)

    def _actors(self) -> list[ActorSpec]:
        moving = Moving(self.config, consensus=self.proposals, connected=self.peers.connected, send=self.peers.send)
        return [
            ActorSpec("raft", self.driver.run, OnFailure.STOP_NODE),
            ActorSpec("proposals", self.proposals.run, OnFailure.STOP_NODE),
            ActorSpec("peers", self.peers.run, OnFailure.STOP_NODE),
            ActorSpec("membership", self.membership.run, OnFailure.RESTART),
            ActorSpec("moving", moving.run, OnFailure.RESTART),
            ActorSpec("maintenance", Maintenance(self.room).run, OnFailure.RESTART),
            ActorSpec("native door", self._serve_native, OnFailure.STOP_NODE),
            ActorSpec("AWS door", self._serve_aws, OnFailure.STOP_NODE),
        ]

    async def _serve_native(self, task_status: AddressReport) -> None:
        await self.world.network.serve_native(
            self.config.native.listen,
            self.native_door.serve,
            identity=self._native_identity,
            limits=port_limits(self.native_door.limits),
            task_status=task_status,
        )

    async def _serve_aws(self, task_status: AddressReport) -> None:
        door = self.config.aws
        await self.world.network.serve_plain(
            door.listen,
            self.aws_door.serve,
            identity=self._native_identity if door.tls else None,
            limits=port_limits(self.aws_door.limits),
            task_status=task_status,
        )

    async def _hand_over(self) -> None:
        """A stopping leader doesn't leave the region to find out by a time-out."""
        core = self.replica.core
        if core.leader != self.config.node:
            return
        successor = best_successor(self.replica, self.world.clock.now())
        if successor is None:
            return
        with trio.CancelScope(shield=True), trio.move_on_after(HAND_OVER_S_MAX):
            try:
                self.replica.transfer_leadership(successor, self.world.clock.now())
            except RaftError as refusal:
                log.info("leadership is not handed over", reason=str(refusal))
                return
            self.driver.pump()
            await self.proposals.another_leads()

    async def _retire(self) -> None:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(RETIRE_S_MAX):
                await self.proposals.retire()
            await trio.sleep(self._lease_left_s() + LAST_ANSWERS_S)

    def _lease_left_s(self) -> float:
        if self._asked_at is None:
            return 0.0
        return max(0, self._asked_at + self.config.timing.lease_ns - self.world.clock.now()) / SECOND

    def _send(self, peer: NodeId, message: ReplicaMessage) -> bool:
        if isinstance(message, LeaseAsk):
            if self._stops:
                return False
            self._asked_at = self.world.clock.now()
        return self.peers.send(peer, message)

    def _warnings(self) -> tuple[str, ...]:
        warnings = []
        if not self._hardening.swap_excluded:
            warnings.append("memory may be written to swap: allow locking it (LimitMEMLOCK, CAP_IPC_LOCK), or swapoff")
        verdict = self.replica.clock_verdict
        if verdict is not ClockVerdict.GOOD:
            offset_s = (self.replica.clock_offset_ns(self.world.clock.now()) or 0) / SECOND
            warnings.append(
                f"this machine's clock is {verdict.value} ({offset_s:+.0f} s against the region's): correct it (NTP). "
                "With a voter down the slower of two clocks is the region's, so look at the other machine's too"
            )
        clock = load_clock(self.room.view)
        if clock is not None and destruction_held(clock):
            hours = (clock.held_until_running_ns - clock.running_ns) / (3600 * SECOND)
            warnings.append(
                "the region's time went over an hour ahead of how long it ran: no key is deleted before it has run for "
                f"{hours:.1f} hours more, or an operator has looked at the clocks (keycluster confirm-time)"
            )
        removals_wait = self.membership.warning()
        if removals_wait is not None:
            warnings.append(removals_wait)
        return tuple(warnings)


def open_stores(
    config: NodeConfig, secrets: NodeSecrets, *, world: World, wal_pages_large: int | None = None
) -> Stores:
    """Opens and verifies both databases. Blocking. Raises StoreError: the node must not start then."""
    keyring = secrets.keyring()
    keys = keyring.state_keys(keyring.newest)
    state_log = LogStore.open(world.disk, config.data / LOG_FOLDER, keys, wal_pages_large=wal_pages_large)
    try:
        state = StateStore.open(world.disk, config.data / STATE_FOLDER, keys, wal_pages_large=wal_pages_large)
        join_up(state_log, state, folder=config.data)
    except BaseException:
        state_log.close()
        raise
    stores = Stores(state_log, state, config.data)
    for leftover in stores.leftovers:
        world.disk.remove(leftover)
    return stores


def _make_replica(config: NodeConfig, *, world: World, stores: Stores) -> Replica:
    view, now = stores.state.view, world.clock.now()
    timing = config.timing
    raft = RaftConfig(election_ns=timing.election_ns, heartbeat_ns=timing.heartbeat_ns)
    raft.validate()
    core = RaftCore(
        node=config.node,
        config=raft,
        hard_state=stores.log.hard_state,
        log=stores.log,
        membership=view.membership,
        last_leader=view.last_leader,
        applied=view.applied_index,
        jitter=world.entropy.jitter(),
        now=now,
    )
    time_floor, running_floor = newest_stamp(view)
    return Replica(
        core=core,
        config=ReplicaConfig(lease_ns=timing.lease_ns, renew_ns=timing.lease_ns // 4),
        nonces=lambda: world.entropy.random_bytes(NONCE_BYTES),
        stamp=stamp,
        digest_at=stores.state.digest_at,
        witness=stores.log.witness,
        applied=view.applied_index,
        digest=view.digest,
        time_floor=time_floor,
        running_floor=running_floor,
        now=now,
    )
