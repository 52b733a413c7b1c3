"""A simulated region: its nodes, and what an operator does to it.

    async with open_region(seed="7", trace=trace) as region:
        region.put_up(template)
        await region.all_serve(voters=3)

Nodes are machines that come and go; ids are never given twice. Everything random comes from the seed, a generator of
its own for each purpose, so that what one part draws moves no other.
"""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.keys.commands import hash_parameters
from keycluster.cluster.keys.records import MemberRecord, MemberRole, MemberState, load_members
from keycluster.cluster.raft.messages import Membership
from keycluster.cluster.store.state import StateView
from keycluster.cluster.types import MILLISECOND, SECOND, AccountId, NodeId
from keycluster.cluster.wire.errors import KmsError
from keycluster.cluster.wire.frames import REQUEST_ID_BYTES
from keycluster.node.access_keys import AccessKeySecret
from keycluster.node.addresses import split_address
from keycluster.node.config import DoorConfig, NodeConfig, SealConfig, SealKind
from keycluster.node.dispatch import AdminCall
from keycluster.node.founding import found_region
from keycluster.node.join_token import JoinToken, parse_join_token
from keycluster.node.joining import JoinFailed, join_region
from keycluster.node.raft_driver import DEFAULT_RETENTION
from keycluster.simulations.disk import CrashDisk
from keycluster.simulations.region.clock import DRIFT_PPM_MAX, SimClock
from keycluster.simulations.region.logs import captured_logs
from keycluster.simulations.region.network import SimNetwork
from keycluster.simulations.region.node import NodeState, SimNode, WatchedNode
from keycluster.simulations.region.state_checks import StateChecks
from keycluster.simulations.region.wire import Wire
from keycluster.simulations.trace import Trace

REGION = "us-east-1"
ACCOUNT = AccountId("123456789012")
ACCESS_KEY = AccessKeySecret("AKIAEXAMPLEEXAMPLE12", "secretsecretsecretsecret")
"""The region's first operator."""

MACHINE_UP_NS_MAX = 30 * 24 * 3600 * SECOND  # Machines have run for a while: no two monotonic clocks say the same.
QUARTZ_PPM_MAX = 50  # What clocks that nothing is wrong with are off by.
SKEW_NS_MAX = 500 * MILLISECOND  # Of wall clocks at the beginning.
PEER_PORT, NATIVE_PORT, AWS_PORT = 7001, 7002, 7003
CONNECTIONS_MAX = 256
OPERATION_S_MAX = 20.0
ANSWER_S_MAX = 5.0
ASK_AGAIN_S = 0.05
JOIN_S_MAX = 60.0
FINAL = "refused ("  # Says a `JoinFailed` that no repetition changes.
RESTART_NS = 1 * SECOND  # After this a supervisor starts a process again that ended by itself.


class NodeGone(Exception):
    """It died while it was asked."""


TOO_LATE = (trio.TooSlowError, NodeGone)


@dataclass(frozen=True, slots=True)
class MemberShape:
    name: NodeId
    az: str
    role: MemberRole


@dataclass(frozen=True, slots=True)
class RegionShape:
    """How a region is made."""

    voters: int
    learners: int = 0
    azs: int = 3

    def members(self) -> list[MemberShape]:
        """In the order in which they join, spread over the AZs."""
        return [
            MemberShape(
                NodeId(f"n{number}"),
                az_name(number % self.azs),
                MemberRole.VOTER if number < self.voters else MemberRole.LEARNER,
            )
            for number in range(self.voters + self.learners)
        ]


def az_name(number: int) -> str:
    return "abc"[number]


class SimRegion:
    """Made by `open_region`."""

    def __init__(
        self, seed: str, *, wire: Wire, network: SimNetwork, nursery: trio.Nursery, checks: StateChecks, wall_ns: int
    ) -> None:
        """`wall_ns`: what all wall clocks are off by."""
        self.wire = wire
        self.network = network
        self.nodes: dict[NodeId, SimNode] = {}
        """All that there ever were, in order of their numbers."""
        self.removed: set[NodeId] = set()
        """Whose removal was asked for."""
        self.asked_to_leave: set[NodeId] = set()
        """Of whom nobody knows whether they are recorded as leaving, or as members at all: asked again at the peace."""
        self.frozen: set[NodeId] = set()
        """Nobody starts these any more."""
        self.client_ca = b""  # DER.
        self.azs = 1
        self.retention = DEFAULT_RETENTION
        self.wal_pages_large: int | None = None
        """Of nodes that start from now on: how much of the log is kept, and where checkpoints begin."""
        self.members_move = False
        """Whether anybody joined or left since it was put up, or tried to."""
        self.unfinished: dict[NodeId, tuple[SimNode, JoinToken]] = {}
        """Joins that nobody has answered: they may be repeated."""
        self._machines = self._tries = 0
        self._voters: list[NodeId] = []
        self._down_until_ns: dict[NodeId, int] = {}
        self.checks = checks
        self.checks.nodes = self.nodes
        self._moved = trio.Event()
        self._is_watched = False
        self.checks.on_move = self._move
        self.checks.failed_disks.after = wire.after
        self.checks.on_end = lambda node: wire.after(RESTART_NS, self.start, node)
        self._seed = seed
        self._rng = random.Random(f"{seed}/operator")
        self._nursery = nursery
        self._wall_ns = wall_ns

    # Machines

    def add_machine(self, name: NodeId, *, az: str, role: MemberRole) -> SimNode:
        """A machine with an empty disk, in the region's list."""
        node = self.nodes[name] = self._machine(name, az=az, role=role)
        return node

    def _machine(self, name: NodeId, *, az: str, role: MemberRole) -> SimNode:
        rng = random.Random(f"{self._seed}/machine/{name}")
        clock = SimClock(
            self.wire,
            base_ns=rng.randrange(MACHINE_UP_NS_MAX),
            ppm=_rate(random.Random(f"{self._seed}/clock/{name}")),
            wall_offset_ns=self._wall_ns + rng.randint(-SKEW_NS_MAX, SKEW_NS_MAX),
        )
        self.network.links.place(name, az)
        node = SimNode(
            _config(name, az=az, role=role),
            disk=CrashDisk(rng.getrandbits(48)),
            clock=clock,
            wire=self.wire,
            network=self.network,
            nursery=self._nursery,
            watch=self.checks,
            seed=self._seed,
        )
        node.retention, node.wal_pages_large = self.retention, self.wal_pages_large
        return node

    def put_up(self, shape: RegionShape, files: Mapping[NodeId, Mapping[Path, bytes]], client_ca: bytes) -> None:
        """Machines of a region that was made before; all start."""
        self.client_ca = client_ca
        self.azs = shape.azs
        for member in shape.members():
            node = self.add_machine(member.name, az=member.az, role=member.role)
            node.disk.fill(files[member.name])
            node.start()
        self._machines = len(self.nodes)
        self._voters = [member.name for member in shape.members() if member.role is MemberRole.VOTER]

    def start(self, node: SimNode) -> None:
        """As whoever looks after the machine does, unless something else keeps it down."""
        if node.name not in self.frozen and self.wire.now_ns >= self._down_until_ns.get(node.name, 0):
            node.start()

    def start_after(self, node: SimNode, down_ns: int) -> None:
        """Keeps it down for so long at least."""
        until = self.wire.now_ns + down_ns
        self._down_until_ns[node.name] = max(until, self._down_until_ns.get(node.name, 0))
        self.wire.at(until, self.start, node)

    def start_now(self, node: SimNode) -> None:
        """Whatever it was to wait for."""
        self._down_until_ns.pop(node.name, None)
        self.start(node)

    def known_voters(self) -> list[NodeId]:
        """By the newest state that a node has or had; sorted."""
        membership = self.membership()
        if membership is not None:
            self._voters = sorted(membership.voters)
        return list(self._voters)

    async def found(self, name: NodeId, *, az: str) -> None:
        """The first node; returns once it serves."""
        node = self.add_machine(name, az=az, role=MemberRole.VOTER)
        world = node.world("founding")
        founded = found_region(node.config, account=ACCOUNT, access_key=ACCESS_KEY, world=world)
        self.client_ca = founded.client_ca
        node.start()
        await self.until(lambda: self.serving() == [node])

    async def join(self, name: NodeId, *, az: str, role: MemberRole) -> SimNode:
        """Admits a new node with a token and starts it. Raises `JoinFailed`, `TooSlowError` and what it may."""
        issued = await self.operate("IssueJoinToken", az=az, role=role.value)
        token = parse_join_token(issued.token)
        node = self._machine(name, az=az, role=role)
        self.members_move = True
        self.unfinished[name] = node, token
        await self.join_again(node, token)
        return node

    async def join_again(self, node: SimNode, token: JoinToken) -> None:
        """A try with the same token; the node starts once it is admitted. Raises as `join`."""
        self._tries += 1
        try:
            with trio.fail_after(JOIN_S_MAX):
                await join_region(node.config, token, world=node.world(f"joining {self._tries}"))
        except JoinFailed as failure:
            self.checks.note(node, "join", str(failure))
            if FINAL in str(failure) or not self._may_answer(token):
                del self.unfinished[node.name]
                self.asked_to_leave.add(node.name)  # An earlier try may have been taken.
            raise
        del self.unfinished[node.name]
        self.nodes[node.name] = node
        node.start()

    def _may_answer(self, token: JoinToken) -> bool:
        """Whether any of the nodes that it names may be a member yet: of whom it isn't known that it was taken out.

        Who has the newest state of those that run may have missed some that came.
        """
        named = {NodeId(split_address(address)[0]) for address in token.addresses}
        rows = self.rows()
        return not rows or not named.isdisjoint(rows) or not named <= self.removed

    # Who is how

    def up(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.state is NodeState.UP]

    def serving(self) -> list[SimNode]:
        """Those that may serve now."""
        return [node for node in self.up() if node.serves]

    def view(self) -> StateView | None:
        """The newest state that any running node has."""
        views = [running.stores.state.view for node in self.up() if (running := node.running) is not None]
        return max(views, key=lambda view: view.applied_index, default=None)

    def rows(self) -> dict[NodeId, MemberRecord]:
        """Of members that aren't removed, by the newest state."""
        view = self.view()
        records = load_members(view) if view is not None else ()
        return {record.node: record for record in records if record.state is not MemberState.REMOVED}

    def membership(self) -> Membership | None:
        """By the newest state."""
        view = self.view()
        return view.membership if view is not None else None

    def new_name(self) -> NodeId:
        """Of a machine that is about to come."""
        self._machines += 1
        return NodeId(f"n{self._machines - 1}")

    def leader(self) -> SimNode | None:
        """Of those that think they lead, the one of the newest term."""
        leaders = [
            (running.replica.core.term, node)
            for node in self.up()
            if (running := node.running) is not None and running.replica.core.is_leader
        ]
        return max(leaders, key=lambda found: found[0], default=(0, None))[1]

    async def ask(self, node: SimNode, operation: str, **members: str) -> Any:
        """What an operator asks of this node, once. Raises `KmsError`, `NodeGone`, `TooSlowError`."""
        with trio.fail_after(ANSWER_S_MAX):
            return await _administer(node, operation, members, self._rng.randbytes(REQUEST_ID_BYTES))

    async def operate(self, operation: str, **members: str) -> Any:
        """What an operator asks of any node that can answer (`cluster/wire/admin.py`); its response.

        Raises `KmsError` for a refusal that is final and `TooSlowError` when nobody could answer.
        """
        request_id = self._rng.randbytes(REQUEST_ID_BYTES)
        with trio.fail_after(OPERATION_S_MAX):
            while True:
                serving = self.serving()
                if serving:
                    with trio.move_on_after(ANSWER_S_MAX):
                        try:
                            return await _administer(self._rng.choice(serving), operation, members, request_id)
                        except NodeGone:
                            pass
                        except KmsError as refusal:
                            if not refusal.retryable:
                                raise
                await trio.sleep(ASK_AGAIN_S)

    async def all_serve(self, shape: RegionShape) -> None:
        """Returns once all members of a region of this shape serve, in their roles."""

        def do_they() -> bool:
            serving = self.serving()
            return len(serving) == shape.voters + shape.learners and all(
                len(running.replica.core.committed_membership.voters) == shape.voters
                for node in serving
                if (running := node.running) is not None
            )

        await self.until(do_they)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looks after each step of any node."""
        while not condition():
            self._is_watched = True
            await self._moved.wait()

    async def demolish(self) -> None:
        """Crashes all machines and waits until nothing of them is left."""
        for node in self.nodes.values():
            node.crash("the end")
        with trio.CancelScope(shield=True):
            for node in (*self.nodes.values(), *(node for node, _ in self.unfinished.values())):
                await node.is_gone()
                node.disk.close()

    def _move(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._moved.set()
            self._moved = trio.Event()


@asynccontextmanager
async def open_region(seed: str, *, trace: Trace, wall_ns: int = 0) -> AsyncIterator[SimRegion]:
    """An empty region within `run_deterministically`. When the block is left all of its machines are gone."""
    wire = Wire()
    checks = StateChecks(now_ns=lambda: wire.now_ns, trace=trace)
    with captured_logs(checks.take_line):
        async with trio.open_nursery() as nursery:
            await nursery.start(wire.run)
            network = SimNetwork(wire, random.Random(f"{seed}/network"))
            network.tap = checks.secrecy.tap
            region = SimRegion(seed, wire=wire, network=network, nursery=nursery, checks=checks, wall_ns=wall_ns)
            try:
                yield region
            finally:
                await region.demolish()
                nursery.cancel_scope.cancel()


def _rate(rng: random.Random) -> int:
    """A machine's: no clock runs true, and some are near the edge of what is promised, for good."""
    edge = rng.choice((-DRIFT_PPM_MAX, DRIFT_PPM_MAX))
    return rng.choice((edge, rng.randint(-DRIFT_PPM_MAX, DRIFT_PPM_MAX), rng.randint(-QUARTZ_PPM_MAX, QUARTZ_PPM_MAX)))


def _config(name: NodeId, *, az: str, role: MemberRole) -> NodeConfig:
    peer, native, aws = f"{name}:{PEER_PORT}", f"{name}:{NATIVE_PORT}", f"127.0.0.{int(name[1:]) + 1}:{AWS_PORT}"
    folder = Path("/sim") / name
    return NodeConfig(
        region=REGION,
        node=name,
        az=az,
        role=role,
        data=folder / "data",
        seal=SealConfig(SealKind.KEY_FILE, path=folder / "seal.key"),
        peer=DoorConfig(peer, peer, tls=True, connections_max=CONNECTIONS_MAX),
        native=DoorConfig(native, native, tls=True, connections_max=CONNECTIONS_MAX),
        aws=DoorConfig(aws, aws, tls=False, connections_max=CONNECTIONS_MAX),
    )


async def _administer(node: SimNode, operation: str, members: dict[str, str], request_id: bytes) -> msgspec.Struct:
    """Through the node's own handler. The caller isn't part of its process: it outlives it."""
    life, running = node.life, node.running
    if running is None:
        raise NodeGone
    try:
        return await _administer_at(running, operation, members, request_id)
    except KmsError:
        raise
    except Exception:
        if node.life is life:
            raise
        raise NodeGone from None  # Whatever came of what is no more.


async def _administer_at(
    running: WatchedNode, operation: str, members: dict[str, str], request_id: bytes
) -> msgspec.Struct:
    admin = running.native_door.dispatch.native_calls[operation].admin
    credential = running.room.credential(ACCESS_KEY.access_key_id)
    if admin is None or credential is None:
        raise InvariantBroken(f"the region's operator can't ask for {operation}")
    request = admin.request_type(**members)
    caller = credential.caller("operator")
    asked = running.proposals.running_time
    call = AdminCall(request, caller, request_id, hash_parameters(operation, request), asked)
    response: msgspec.Struct = await admin.handler(call)
    return response
