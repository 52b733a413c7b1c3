"""A region of whole nodes in one process: real sockets, TLS, disks and threads, without their doors being used.

    async with region_in_process(tmp_path) as region:
        await region.found("n0")
        await region.join("n1", az="b")
        await region.all_serve()
        key = await region.create_key("n1")

Waiting is for the nodes' own steps (`until`), each with a deadline; nothing sleeps.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from keycluster.cluster.keys.commands import BeginRemoveMember, CommandBody, Outcome, encode_command
from keycluster.cluster.keys.records import JoinTokenRecord, KeyRecord, MemberRole, decode_record, key_row, load_key
from keycluster.cluster.seams import World
from keycluster.cluster.types import MILLISECOND, AccountId, KeyId, NodeId
from keycluster.cluster.wire.operations import CreateKeyRequest
from keycluster.node.access_keys import AccessKeySecret
from keycluster.node.admission import join_token_text, new_join_token
from keycluster.node.config import DoorConfig, NodeConfig, SealConfig, SealKind, TimingConfig
from keycluster.node.founding import found_region
from keycluster.node.hardening import Hardening
from keycluster.node.join_token import parse_join_token
from keycluster.node.joining import join_region
from keycluster.node.making import lock_data
from keycluster.node.operations.writes import create_key
from keycluster.node.run import Node, open_stores
from keycluster.node.seal_source import open_seal
from keycluster.node.sealing import open_secrets
from keycluster.node.world import real_world

ACCOUNT = AccountId("123456789012")
ACCESS_KEY = AccessKeySecret("AKIAEXAMPLEEXAMPLE12", "secretsecretsecretsecret")
UNTIL_S = 30.0  # Long: tests wait for what happens, and a busy machine may take its time.
TIMING = TimingConfig(election_ns=600 * MILLISECOND, heartbeat_ns=100 * MILLISECOND)  # No elections by a busy machine.


class WatchedNode(Node):
    """Tells of each of its steps."""

    on_step: Callable[[], None] = staticmethod(lambda: None)

    def stepped(self) -> None:
        super().stepped()
        self.on_step()


@dataclass
class Running:
    """A node that runs, and how it ended."""

    node: WatchedNode
    close: Callable[[], None]
    stop: trio.Event
    scope: trio.CancelScope
    ended: trio.Event
    failure: BaseException | None = None


class RegionInProcess:
    """Nodes by their ids; made by `region_in_process`."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._nursery = nursery
        self._configs: dict[str, NodeConfig] = {}
        self._moved = trio.Event()
        self.running: dict[str, Running] = {}
        self.worlds: dict[str, World] = {}
        """A test may put another world here before a node starts."""

    # Nodes

    async def found(self, name: str, *, az: str = "a") -> None:
        config = self._config(name, az, MemberRole.VOTER)
        await trio.to_thread.run_sync(
            lambda: found_region(config, account=ACCOUNT, access_key=ACCESS_KEY, world=real_world())
        )
        await self.start(name)
        await self.until(self.node(name).proposals.may_serve)

    async def join(self, name: str, *, az: str, role: MemberRole = MemberRole.VOTER) -> None:
        """Admits a node through any node that runs, and starts it."""
        config = self._config(name, az, role)
        asked = next(iter(self.running.values())).node
        issue = new_join_token(role=role, az=az, keyring=asked.room.keyring, entropy=asked.room.entropy)
        record = decode_record(await self._carry_out(asked, issue), JoinTokenRecord)
        text = join_token_text(record, view=asked.room.view, keyring=asked.room.keyring)
        await join_region(config, parse_join_token(text), world=real_world())
        await self.start(name)

    async def start(self, name: str) -> None:
        """Starts a node from its folder; returns once it is up."""
        config = self._configs[name]
        node, close = await trio.to_thread.run_sync(self._open, config, self.worlds.get(name) or real_world())
        node.on_step = self._step
        running = Running(node, close, trio.Event(), trio.CancelScope(), trio.Event())
        self.running[name] = running
        await self._nursery.start(self._run, running)

    def move(self, name: str) -> NodeConfig:
        """Gives a node that doesn't run other addresses, as an operator would in its configuration."""
        peer, native, aws = free_addresses(3)
        old = self._configs[name]
        self._configs[name] = replace(
            old,
            peer=replace(old.peer, listen=peer, advertised=peer),
            native=replace(old.native, listen=native, advertised=native),
            aws=replace(old.aws, listen=aws, advertised=aws),
        )
        return self._configs[name]

    async def kill(self, name: str) -> None:
        """Ends a node where it stands: no hand-over, no farewell."""
        running = self.running.pop(name)
        running.scope.cancel()
        await running.ended.wait()

    async def stop(self, name: str) -> None:
        """As a signal does."""
        running = self.running.pop(name)
        running.stop.set()
        await running.ended.wait()

    async def failure_of(self, name: str) -> BaseException:
        """What a node that must not run on ended by."""
        running = self.running[name]
        with trio.fail_after(UNTIL_S):
            await running.ended.wait()
        del self.running[name]
        assert running.failure is not None, f"{name} ended in peace"
        return running.failure

    def node(self, name: str) -> WatchedNode:
        return self.running[name].node

    def data(self, name: str) -> Path:
        return self._configs[name].data

    # Waiting

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looks after each step of any node."""
        with trio.fail_after(UNTIL_S):
            while not condition():
                await self._moved.wait()

    async def all_serve(self, *, voters: int | None = None) -> None:
        """All that run hold a lease, and so many of the region's members vote."""

        def holds() -> bool:
            nodes = [running.node for running in self.running.values()]
            count = len(nodes) if voters is None else voters
            return all(
                node.proposals.may_serve() and len(node.replica.core.committed_membership.voters) == count
                for node in nodes
            )

        await self.until(holds)

    async def leader(self) -> str:
        """Of those that run."""
        found: list[str] = []

        def leads() -> bool:
            found[:] = [name for name, running in self.running.items() if running.node.replica.core.is_leader]
            return bool(found)

        await self.until(leads)
        return found[0]

    # Commands

    async def create_key(self, name: str, *, request_id: bytes | None = None) -> KeyId:
        """Creates a key at a node; returns once that may be answered."""
        room = self.node(name).room
        credential = room.credential(ACCESS_KEY.access_key_id)
        assert credential is not None
        body = create_key(room, credential.caller("test"), CreateKeyRequest())
        await self._carry_out(self.node(name), body, request_id=request_id)
        return body.key_id

    async def carry_out(self, name: str, body: CommandBody) -> None:
        """Any other command, given to a node by the region's operator; returns once it may be answered."""
        await self._carry_out(self.node(name), body)

    async def remove(self, name: str, *, at: str) -> None:
        await self._carry_out(self.node(at), BeginRemoveMember(NodeId(name)))

    def has(self, name: str, key_id: KeyId) -> bool:
        """Whether a node acts on a key."""
        return self.node(name).room.key(key_id) is not None

    def stored(self, name: str, key_id: KeyId) -> KeyRecord | None:
        """The row itself, past all caches."""
        assert key_row(key_id)
        return load_key(self.node(name).stores.state.view, key_id)

    async def _carry_out(self, node: Node, body: CommandBody, *, request_id: bytes | None = None) -> bytes:
        credential = node.room.credential(ACCESS_KEY.access_key_id)
        assert credential is not None
        command = encode_command(
            body,
            credential.caller("test"),
            request_id=request_id or os.urandom(16),
            asked=node.proposals.running_time,
        )
        with trio.fail_after(UNTIL_S):
            outcome: Outcome = await node.proposals.propose(command)
        assert outcome.error() is None, outcome
        return outcome.ok or b""

    # Inside

    def _config(self, name: str, az: str, role: MemberRole) -> NodeConfig:
        folder = self._folder / name
        folder.mkdir()
        peer, native, aws = (DoorConfig(address, address, True, 100) for address in free_addresses(3))
        self._configs[name] = NodeConfig(
            region="us-east-1",
            node=NodeId(name),
            az=az,
            role=role,
            data=folder / "data",
            seal=SealConfig(SealKind.KEY_FILE, path=folder / "seal.key"),
            peer=peer,
            native=native,
            aws=replace(aws, tls=False),
            timing=TIMING,
        )
        return self._configs[name]

    @staticmethod
    def _open(config: NodeConfig, world: World) -> tuple[WatchedNode, Callable[[], None]]:
        unlock = lock_data(config.data, world.disk)
        seal = open_seal(config, disk=world.disk)
        secrets = open_secrets(seal, region=config.region, node=config.node, data=config.data, disk=world.disk)
        stores = open_stores(config, secrets, world=world)
        node = WatchedNode(config, world=world, secrets=secrets, stores=stores, hardening=Hardening(True))

        def close() -> None:
            stores.log.close()
            stores.state.close()
            unlock()

        return node, close

    async def _run(self, running: Running, task_status: trio.TaskStatus[None]) -> None:
        up = _Once(task_status)
        try:
            with running.scope:
                await running.node.run(running.stop, task_status=up)
        except Exception as failure:  # noqa: BLE001  # What a node ends by is what tests ask for.
            running.failure = failure
        finally:
            running.close()
            running.ended.set()
            up.started()
            self._step()

    def _step(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


class _Once:
    """A node that ends before it is up has been waited for all the same."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status
        self._told = False

    def started(self, value: None = None) -> None:
        if not self._told:
            self._told = True
            self._status.started(value)


@asynccontextmanager
async def region_in_process(folder: Path) -> AsyncIterator[RegionInProcess]:
    """Everything in it has ended when the block is left."""
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            region = RegionInProcess(folder, nursery)
            yield region
            for running in region.running.values():
                running.scope.cancel()


def free_addresses(count: int) -> list[str]:
    """Ports that were free a moment ago: addresses stand in the state before a node listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]
    for opened in sockets:
        opened.close()
    return addresses
