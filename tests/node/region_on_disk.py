"""A founded region of one node on a real folder, with a log in memory: enough to issue join tokens and admit nodes.

    region = RegionOnDisk(tmp_path)
    text = region.issue_token(role=MemberRole.LEARNER, az="b")
    async with region.native_port() as address: ...

Commands are applied at once by the real state machine on the real state store.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from msgspec.structs import replace

from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import (
    UNDATED,
    CommandBody,
    IssueJoinToken,
    Outcome,
    encode_command,
    region_caller,
    stamp,
)
from keycluster.cluster.keys.records import (
    JoinTokenRecord,
    MemberRecord,
    MemberRole,
    Table,
    load_join_token,
    load_member,
    member_row,
    store,
)
from keycluster.cluster.raft.messages import Entry, EntryKind
from keycluster.cluster.seams import ByteStream, World
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore, StateTx, StateView
from keycluster.cluster.types import SECOND, AccountId, ClusterTime, LogIndex, NodeId, RunningTime, Term
from keycluster.cluster.wire.errors import KmsError
from keycluster.cluster.wire.frames import (
    GREETING_BYTES_MAX,
    FrameSplitter,
    Join,
    JoinAnswer,
    Refused,
    decode_client_greeting,
    encode_greeting,
)
from keycluster.node.admission import Admitter, join_token_text, new_join_token
from keycluster.node.config import NodeConfig, parse_config
from keycluster.node.founding import FoundedRegion, found_region
from keycluster.node.join_token import JoinToken, parse_join_token
from keycluster.node.making import LOG_FOLDER, STATE_FOLDER
from keycluster.node.seal_source import open_seal
from keycluster.node.sealing import NodeSecrets, open_secrets
from keycluster.node.world import real_world

ACCOUNT = AccountId("123456789012")
HOUR = 3600 * SECOND


def node_config(
    folder: Path, node: str, *, az: str = "a", role: str = "voter", region: str = "us-east-1", data: Path | None = None
) -> NodeConfig:
    """A node with a key file beside its data folder."""
    text = f"""
    region = "{region}"
    node = "{node}"
    az = "{az}"
    role = "{role}"
    data = "{data or folder / node}"
    [seal]
    kind = "key-file"
    path = "{folder}/seals/{node}"
    [peer]
    listen = "127.0.0.1:7710"
    [native]
    listen = "127.0.0.1:7720"
    [aws]
    listen = "127.0.0.1:7730"
    """
    return parse_config(text.encode(), folder=folder)


def secrets_on_disk(config: NodeConfig, world: World) -> NodeSecrets:
    seal = open_seal(config, disk=world.disk)
    return open_secrets(seal, region=config.region, node=config.node, data=config.data, disk=world.disk)


class RegionOnDisk:
    """`Consensus` of a region that is its only node."""

    def __init__(self, folder: Path) -> None:
        self.world = real_world()
        self.config = node_config(folder, "n1")
        self.founded: FoundedRegion = found_region(self.config, account=ACCOUNT, access_key=None, world=self.world)
        self.secrets = secrets_on_disk(self.config, self.world)
        self.keyring = self.secrets.keyring()
        keys = self.keyring.state_keys(1)
        log = LogStore.open(self.world.disk, self.config.data / LOG_FOLDER, keys)
        self.first_entries = log.entries(log.first_index, LogIndex(log.last_index + 1), 1 << 20)
        log.close()
        self._state = StateStore.open(self.world.disk, self.config.data / STATE_FOLDER, keys)
        self._index = 0
        self.late_by = 0
        """How far cluster time has gone on since the founding."""
        self.leases_missing = 0
        """So many times the region's node finds that it has no lease."""
        self.lose_answers = 0
        """So many answers the native port doesn't give, after it carried out what was asked."""
        self.questions: list[bytes] = []
        self.outcomes = self._apply(*self.first_entries)

    def close(self) -> None:
        self._state.close()

    # Consensus

    @property
    def view(self) -> StateView:
        return self._state.view

    @property
    def leader(self) -> NodeId | None:
        return self.config.node

    def may_serve(self) -> bool:
        self.leases_missing -= 1
        return self.leases_missing < 0

    def cluster_time(self) -> ClusterTime | None:
        return ClusterTime(self.world.clock.wall() + self.late_by)

    @property
    def running_time(self) -> RunningTime:
        return UNDATED

    async def propose(self, command: bytes) -> Outcome:
        return self._propose(command)

    @property
    def settled_index(self) -> LogIndex:
        return self._state.view.applied_index

    async def settled(self, index: LogIndex) -> None:
        pass

    # What tests ask for

    def carry_out(self, body: CommandBody) -> Outcome:
        return self._propose(encode_command(body, region_caller("test")))

    def issue_token(self, *, role: MemberRole = MemberRole.LEARNER, az: str = "b", address: str = "h:1") -> JoinToken:
        """A token as an operator gets it, asking at `address` alone."""
        issued = new_join_token(role=role, az=az, keyring=self.keyring, entropy=self.world.entropy)
        self._write(partial(_put_token, issued, ClusterTime(self.world.clock.wall() + HOUR)))
        record = load_join_token(self.view, issued.token_id)
        assert record is not None
        token = parse_join_token(join_token_text(record, view=self.view, keyring=self.keyring))
        assert token.addresses == (self.config.native.advertised,)
        return JoinToken(token.token_id, token.secret, token.client_ca_fingerprint, (address,))

    def member(self, node: str) -> MemberRecord | None:
        return load_member(self.view, NodeId(node))

    def change_member(self, node: str, **changes: object) -> None:
        member = self.member(node)
        assert member is not None
        changed = replace(member, **changes)
        self._write(lambda tx: store(tx, Table.MEMBERS, member_row(changed.node), changed))

    @asynccontextmanager
    async def native_port(self, *, identity: NodeSecrets | None = None) -> AsyncIterator[str]:
        """The native door as far as a join needs it."""
        shown = (identity or self.secrets).native_identity
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                serve = partial(self.world.network.serve_native, "127.0.0.1:0", self._answer, identity=shown)
                yield await nursery.start(serve)
                nursery.cancel_scope.cancel()

    async def _answer(self, stream: ByteStream) -> None:
        message = decode_client_greeting(await read_frame(stream))
        assert isinstance(message, Join)
        self.questions.append(message.payload)
        admitter = Admitter(secrets=lambda: self.secrets, consensus=self, entropy=self.world.entropy)
        try:
            answer: JoinAnswer | Refused = JoinAnswer(await admitter.admit(message.payload, source=stream.peer_address))
        except KmsError as error:
            answer = Refused(error.code, error.message, error.retryable)
        if self.lose_answers:
            self.lose_answers -= 1
            return
        await stream.send_all(encode_greeting(answer))

    def _propose(self, command: bytes) -> Outcome:
        time = self.cluster_time()
        assert time is not None
        payload = stamp(command, time, self._index * SECOND)
        return self._apply(Entry(Term(1), LogIndex(self._index + 1), EntryKind.COMMAND, payload))[0]

    def _apply(self, *entries: Entry) -> list[Outcome]:
        applied = self._state.apply(entries, apply_entry)
        self._index = applied.index
        self._state.refresh()
        return [outcome for outcome in applied.results if outcome is not None]

    def _write(self, change: Callable[[StateTx], None]) -> None:
        """Rows that a test wants changed behind the state machine's back."""

        def apply(tx: StateTx, entry: Entry) -> None:
            change(tx)

        self._index += 1
        entry = Entry(Term(1), LogIndex(self._index), EntryKind.COMMAND, b"a test's own")
        self._state.apply([entry], apply)
        self._state.refresh()


def _put_token(issued: IssueJoinToken, expires: ClusterTime, tx: StateTx) -> None:
    record = JoinTokenRecord(issued.token_id, issued.secret_sealed, issued.role, issued.az, expires)
    store(tx, Table.JOIN_TOKENS, issued.token_id, record)


async def read_frame(stream: ByteStream) -> bytes:
    splitter = FrameSplitter(GREETING_BYTES_MAX)
    while content := await stream.receive_some(4_096):
        for body in splitter.feed(content):
            return body
    raise trio.BrokenResourceError("no whole frame came")
