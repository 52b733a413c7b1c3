"""Handlers, state machine and store together, without raft: what one node does with a key's whole life."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keycluster.cluster.keys.apply import apply_entry
from keycluster.cluster.keys.commands import Caller, CommandBody, Outcome, encode_command, region_caller, stamp
from keycluster.cluster.keys.hierarchy import Keyring
from keycluster.cluster.raft.messages import Entry, EntryKind, Membership
from keycluster.cluster.store.state import StateStore, StateView
from keycluster.cluster.types import ClusterTime, KeyId, LogIndex, NodeId, RunningTime, Term
from keycluster.cluster.wire.errors import (
    DisabledException,
    KMSInvalidStateException,
    NotFoundException,
)
from keycluster.node.operations.table import OPERATIONS, Plane
from keycluster.node.room import Room
from keycluster.node.world import RealDisk
from tests.key_machine import FOUNDING, OPERATOR_KEY
from tests.room_on_memory import ACCOUNT, NOW, REGION, SeededEntropy

NODE = NodeId("node-a")


class RecordingEntropy(SeededEntropy):
    """Remembers what it gave out, to look for it where it must not be."""

    def __init__(self) -> None:
        super().__init__(seed=7)
        self.given: list[bytes] = []

    def random_bytes(self, count: int) -> bytes:
        self.given.append(super().random_bytes(count))
        return self.given[-1]


class StoredConsensus:
    """Raft's place: what is proposed is applied, by the only node there is."""

    def __init__(self, store: StateStore) -> None:
        self.store = store

    @property
    def view(self) -> StateView:
        return self.store.view

    @property
    def leader(self) -> NodeId:
        return NODE

    def may_serve(self) -> bool:
        return True

    def cluster_time(self) -> ClusterTime:
        return NOW

    @property
    def running_time(self) -> RunningTime:
        return RunningTime(0)

    async def propose(self, command: bytes) -> Outcome:
        raise NotImplementedError  # `StoredRegion.apply` does it.

    @property
    def settled_index(self) -> LogIndex:
        return self.store.view.applied_index

    async def settled(self, index: LogIndex) -> None:
        return


class StoredRegion:
    """A region of one node on a store in `folder`, founded when it is new."""

    def __init__(self, folder: Path, entropy: RecordingEntropy) -> None:
        self.folder = folder
        self.entropy = entropy
        self.keyring = Keyring(REGION, {1: bytes(range(32))}, 1)
        disk, keys = RealDisk(), self.keyring.state_keys(1)
        is_new = not StateStore.exists(disk, folder)
        if is_new:
            self.store = StateStore.create(disk, folder, keys, membership=Membership(voters=(NODE,)))
        else:
            self.store = StateStore.open(disk, folder, keys)
        self.caller = Caller(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", OPERATOR_KEY, 1, "192.0.2.1")
        self.room = Room(
            region=REGION,
            node=NODE,
            keyring=self.keyring,
            entropy=entropy,
            consensus=StoredConsensus(self.store),
        )
        if is_new:
            assert self.apply(FOUNDING, region_caller(NODE)).error() is None

    def apply(self, body: CommandBody, caller: Caller) -> Outcome:
        """In the order of `node/`: commit, move the view, invalidate."""
        payload = stamp(encode_command(body, caller), NOW, 0)
        index = LogIndex(self.store.view.applied_index + 1)
        applied = self.store.apply([Entry(Term(1), index, EntryKind.COMMAND, payload)], apply_entry)
        self.store.refresh()
        self.room.invalidate(applied.touched)
        outcome = applied.results[0]
        assert outcome is not None
        return outcome

    def call(self, name: str, **members: Any) -> Any:
        operation = OPERATIONS[name]
        answer = operation.handler(self.room, self.caller, operation.request_type(**members))
        if operation.plane is not Plane.WRITE:
            return answer
        outcome = self.apply(answer, self.caller)
        refusal = outcome.error()
        if refusal is not None:
            raise refusal
        return msgspec.msgpack.decode(outcome.ok or b"\x80", type=operation.response_type)

    def create_key(self) -> KeyId:
        return KeyId(self.call("CreateKey").key_metadata.key_id)


@pytest.fixture
def open_region(tmp_path: Path) -> Iterator[Callable[[], StoredRegion]]:
    """Opens the region in one folder, again and again: what was open before is closed."""
    opened: list[StoredRegion] = []
    entropy = RecordingEntropy()

    def open_it() -> StoredRegion:
        if opened:
            opened[-1].store.close()
        opened.append(StoredRegion(tmp_path, entropy))
        return opened[-1]

    yield open_it
    opened[-1].store.close()


def test_created_key_encrypts_and_decrypts_at_once(open_region: Callable[[], StoredRegion]) -> None:
    """The token that the proposer sealed is the one that the room opens."""
    region = open_region()
    key_id = region.create_key()
    sealed = region.call("Encrypt", key_id=key_id, plaintext=b"a secret", encryption_context={"a": "b"})
    opened = region.call("Decrypt", ciphertext_blob=sealed.ciphertext_blob, encryption_context={"a": "b"})
    assert opened.plaintext == b"a secret"
    described = region.call("DescribeKey", key_id=key_id).key_metadata
    assert (described.arn, described.current_key_material_id) == (sealed.key_id, opened.key_material_id)


def test_changes_of_state_count_from_the_next_request_on(open_region: Callable[[], StoredRegion]) -> None:
    """Disable, enable, schedule and cancel deletion, on a key that is warm."""
    region = open_region()
    key_id = region.create_key()
    blob = region.call("Encrypt", key_id=key_id, plaintext=b"a secret").ciphertext_blob
    for _ in range(3):
        region.call("DisableKey", key_id=key_id)
        with pytest.raises(DisabledException):
            region.call("Decrypt", ciphertext_blob=blob)
        region.call("EnableKey", key_id=key_id)
        assert region.call("Decrypt", ciphertext_blob=blob).plaintext == b"a secret"
        region.call("ScheduleKeyDeletion", key_id=key_id, pending_window_in_days=7)
        with pytest.raises(KMSInvalidStateException):
            region.call("Encrypt", key_id=key_id, plaintext=b"a secret")
        region.call("CancelKeyDeletion", key_id=key_id)
        with pytest.raises(DisabledException):
            region.call("Encrypt", key_id=key_id, plaintext=b"a secret")
        region.call("EnableKey", key_id=key_id)


def test_rotated_key_opens_old_and_new(open_region: Callable[[], StoredRegion]) -> None:
    """Across a restart too."""
    region = open_region()
    key_id = region.create_key()
    old = region.call("Encrypt", key_id=key_id, plaintext=b"old").ciphertext_blob
    region.call("RotateKeyOnDemand", key_id=key_id)
    new = region.call("Encrypt", key_id=key_id, plaintext=b"new").ciphertext_blob
    for reopened in (region, open_region()):
        answers = [reopened.call("Decrypt", ciphertext_blob=blob) for blob in (old, new)]
        assert [answer.plaintext for answer in answers] == [b"old", b"new"]
        assert answers[0].key_material_id != answers[1].key_material_id


def test_alias_names_what_it_was_last_pointed_at(open_region: Callable[[], StoredRegion]) -> None:
    """Create, update and delete, each seen by the next Encrypt."""
    region = open_region()
    one, two = region.create_key(), region.create_key()
    region.call("CreateAlias", alias_name="alias/a", target_key_id=one)
    assert region.call("Encrypt", key_id="alias/a", plaintext=b"x").key_id.endswith(one)
    region.call("UpdateAlias", alias_name="alias/a", target_key_id=two)
    assert region.call("Encrypt", key_id="alias/a", plaintext=b"x").key_id.endswith(two)
    region.call("DeleteAlias", alias_name="alias/a")
    with pytest.raises(NotFoundException):
        region.call("Encrypt", key_id="alias/a", plaintext=b"x")


def test_disk_holds_no_key_material(open_region: Callable[[], StoredRegion]) -> None:
    """Neither generation nor backing keys nor data keys stand in any file; key ids do, so the search can find."""
    region = open_region()
    key_id = region.create_key()
    region.call("RotateKeyOnDemand", key_id=key_id)
    data_key = region.call("GenerateDataKey", key_id=key_id, key_spec="AES_256").plaintext
    secrets = {given for given in region.entropy.given if len(given) == 32} | {bytes(range(32)), data_key}
    assert len(secrets) >= 4
    content = b"".join(path.read_bytes() for path in sorted(region.folder.iterdir()) if path.is_file())
    assert key_id.encode() in content
    for secret in secrets:
        assert secret not in content
