"""The room: what it keeps is bounded, and never older than the state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.keys.blob import parse_blob
from keycluster.cluster.keys.commands import Caller
from keycluster.cluster.keys.context import EMPTY_CONTEXT
from keycluster.cluster.keys.hierarchy import Keyring
from keycluster.cluster.keys.records import (
    AliasRecord,
    KeyRecord,
    KeyState,
    Table,
    access_key_row,
    account_key_row,
    alias_row,
    encode_record,
    key_row,
)
from keycluster.cluster.types import AccountId, KeyId
from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    KeyUnavailableException,
    KMSInternalException,
    NotFoundException,
)
from keycluster.node.room import CacheStatistics, HotCache, HotKey
from tests.room_on_memory import ACCOUNT, NOW, OTHER_ACCOUNT, REGION, RoomOnMemory, key_arn

ABSENT = KeyId("11111111-2222-3333-4444-555555555555")


@pytest.fixture
def region() -> RoomOnMemory:
    return RoomOnMemory()


def hot_key(region: RoomOnMemory, key_id: KeyId) -> HotKey:
    key = region.room.hot_key(key_id)
    assert key is not None
    return key


def test_cache_drops_the_least_recently_used_first() -> None:
    """What is asked for stays, what isn't goes, and the weight kept never passes the bound."""
    cache = HotCache(bytes_max=160)
    for name in (b"a", b"b", b"c"):
        cache.keep((1, name), name, 50 // 5, account=ACCOUNT)
    for number in range(14):
        assert cache.get((1, b"a")) == b"a"
        cache.keep((2, bytes((number,))), number, 10, account=ACCOUNT)
        assert cache.statistics().bytes_kept <= 160
    assert cache.get((1, b"a")) == b"a"
    assert cache.get((1, b"b")) is None
    assert cache.statistics() == CacheStatistics(entries=16, bytes_kept=160)


def test_cache_does_not_keep_what_would_push_out_much() -> None:
    """One huge row never empties the cache."""
    cache = HotCache(bytes_max=160)
    cache.keep((1, b"a"), "a", 10, account=ACCOUNT)
    cache.keep((1, b"huge"), "huge", 11, account=ACCOUNT)
    assert cache.get((1, b"huge")) is None
    assert cache.get((1, b"a")) == "a"


def test_cache_counts_a_row_that_is_kept_again_once() -> None:
    """Replacing and dropping leave no weight behind."""
    cache = HotCache(bytes_max=160)
    cache.keep((1, b"a"), "old", 10, account=ACCOUNT)
    cache.keep((1, b"a"), "new", 5, account=ACCOUNT)
    assert cache.statistics() == CacheStatistics(entries=1, bytes_kept=5)
    cache.drop((1, b"a"))
    cache.drop((1, b"a"))
    assert cache.statistics() == CacheStatistics(entries=0, bytes_kept=0)


def test_account_that_uses_much_drops_its_own_first() -> None:
    """Half the room is the others', though they use theirs seldom; alone, one account may have all of it."""
    cache = HotCache(bytes_max=160)
    for number in range(20):
        cache.keep((1, bytes((number,))), number, 10, account=ACCOUNT)
    assert cache.statistics() == CacheStatistics(entries=16, bytes_kept=160)
    for number in range(8):
        cache.keep((2, bytes((number,))), number, 10, account=OTHER_ACCOUNT)
    for number in range(100):
        cache.keep((3, bytes((number,))), number, 10, account=ACCOUNT)
        assert cache.statistics() == CacheStatistics(entries=16, bytes_kept=160)
    assert [cache.get((2, bytes((number,)))) for number in range(8)] == list(range(8))
    assert [cache.get((3, bytes((number,)))) for number in range(92, 100)] == list(range(92, 100))
    cache.clear()
    cache.keep((1, b"a"), "a", 10, account=ACCOUNT)
    assert cache.statistics() == CacheStatistics(entries=1, bytes_kept=10)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["keep", "get", "drop"]), st.integers(0, 9), st.integers(1, 12), st.sampled_from("abc")
        )
    )
)
def test_cache_stays_true_to_its_books(steps: list[tuple[str, int, int, str]]) -> None:
    """Whatever is kept and dropped: never above the bound, nothing counted that isn't there, no other row's value."""
    cache = HotCache(bytes_max=192)
    newest: dict[int, tuple[int, int, str]] = {}
    for kind, number, weight, account in steps:
        row = (1, bytes((number,)))
        if kind == "keep":
            newest[number] = (number, weight, account)
            cache.keep(row, newest[number], weight, account=AccountId(account))
        elif kind == "get":
            assert cache.get(row) in (None, newest.get(number))
        else:
            cache.drop(row)
            assert cache.get(row) is None
        there = [kept for number in newest if (kept := cache.get((1, bytes((number,))))) is not None]
        assert cache.statistics() == CacheStatistics(len(there), sum(weight for _, weight, _ in there))
        assert cache.statistics().bytes_kept <= 192


def test_key_is_read_once_while_nothing_changes(region: RoomOnMemory) -> None:
    """The second look-up touches no store and unwraps nothing."""
    record = region.add_key()
    first = hot_key(region, record.key_id)
    backing = first.current
    region.state.reads.clear()
    assert hot_key(region, record.key_id) is first
    assert first.current is backing
    assert region.room.key(record.key_id) == record
    assert region.state.reads == []


def test_key_that_was_written_is_read_anew(region: RoomOnMemory) -> None:
    """After `invalidate` the next look-up sees the new row; without it, it would not (the cache is real)."""
    record = region.add_key()
    hot_key(region, record.key_id)
    region.change_key(record.key_id, state=KeyState.DISABLED)
    assert hot_key(region, record.key_id).record.state is KeyState.DISABLED
    region.state.delete(Table.KEYS, key_row(record.key_id))
    assert region.room.hot_key(record.key_id) is not None
    region.room.invalidate([(Table.KEYS, key_row(record.key_id))])
    assert region.room.hot_key(record.key_id) is None


def test_row_is_invalidated_by_its_table_s_number(region: RoomOnMemory) -> None:
    """Whoever applies knows tables as numbers."""
    record = region.add_key()
    hot_key(region, record.key_id)
    region.state.delete(Table.KEYS, key_row(record.key_id))
    region.room.invalidate({(int(Table.KEYS), key_row(record.key_id))})
    assert region.room.hot_key(record.key_id) is None


def test_clear_forgets_what_aliases_meant(region: RoomOnMemory) -> None:
    """A snapshot may have an alias on another key."""
    one, two = region.add_key(), region.add_key()
    region.add_alias("alias/a", one.key_id)
    assert region.room.resolve("alias/a", region.caller(), action="kms:Encrypt").record == one
    moved = AliasRecord(key_id=two.key_id, created=NOW, updated=NOW)
    region.state.put(Table.ALIASES, alias_row(ACCOUNT, "alias/a"), encode_record(moved))
    region.room.clear()
    assert region.room.resolve("alias/a", region.caller(), action="kms:Encrypt").record == two


def test_permission_is_asked_each_time(region: RoomOnMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a name was resolved before is no permission: a withdrawn one is withdrawn at once."""
    record = region.add_key()
    region.room.resolve(record.key_id, region.caller(), action="kms:Encrypt")

    def refuse(caller: Caller, action: str, key: KeyRecord | None) -> None:
        raise AccessDeniedException(f"{caller.account} {action} {key.key_id if key else ''}")

    monkeypatch.setattr("keycluster.node.room.authorise", refuse)
    with pytest.raises(AccessDeniedException, match=f"{ACCOUNT} kms:Encrypt {record.key_id}"):
        region.room.resolve(record.key_id, region.caller(), action="kms:Encrypt")


def test_clear_forgets_keys_credentials_and_resolutions(region: RoomOnMemory) -> None:
    """After a snapshot nothing of the old state is left."""
    record = region.add_key()
    region.add_alias("alias/a", record.key_id)
    region.add_access_key("AKIAONE", b"secret")
    region.room.resolve("alias/a", region.caller(), action="kms:Encrypt")
    region.room.credential("AKIAONE")
    region.state.tables.pop(Table.KEYS)
    region.state.tables.pop(Table.ALIASES)
    region.state.tables.pop(Table.ACCESS_KEYS)
    region.room.clear()
    assert region.room.cache.statistics().entries == 0
    assert region.room.credential("AKIAONE") is None
    with pytest.raises(NotFoundException):
        region.room.resolve("alias/a", region.caller(), action="kms:Encrypt")


def test_absent_keys_leave_nothing_behind(region: RoomOnMemory) -> None:
    """A stranger's random ids cost the store's answer and no memory."""
    region.add_key()
    assert region.room.hot_key(ABSENT) is None
    before = region.room.cache.statistics()
    for number in range(1000):
        assert region.room.hot_key(KeyId(f"{number:08}-2222-3333-4444-555555555555")) is None
        with pytest.raises(NotFoundException):
            region.room.resolve(f"alias/{number}", region.caller(), action="kms:Encrypt")
    after = region.room.cache.statistics()
    assert after.entries <= before.entries + 1  # The region's own row.
    assert region.room._resolutions == {}


def test_cache_of_many_keys_stays_within_its_bound() -> None:
    """More keys in use than fit: each is answered, memory stays flat."""
    region = RoomOnMemory(cache_bytes_max=200_000)
    records = [region.add_key() for _ in range(300)]
    for _ in range(2):
        for record in records:
            assert hot_key(region, record.key_id).record == record
            assert region.room.cache.statistics().bytes_kept <= 200_000
    assert region.room.cache.statistics().entries < 150


@pytest.mark.parametrize("form", ["{id}", "{arn}", "alias/mine", "arn:aws:kms:us-east-1:123456789012:alias/mine"])
def test_resolve_takes_all_four_forms(region: RoomOnMemory, form: str) -> None:
    """Key id, key ARN, alias name and alias ARN name the same key, at first and from then on."""
    record = region.add_key()
    region.add_alias("alias/mine", record.key_id)
    text = form.format(id=record.key_id, arn=key_arn(record))
    for _ in range(2):
        key = region.room.resolve(text, region.caller(), action="kms:Encrypt")
        assert key.record == record
        assert key.arn == key_arn(record)


def test_alias_that_moved_names_its_new_key_at_once(region: RoomOnMemory) -> None:
    """Resolutions don't outlive a change of any alias."""
    one, two = region.add_key(), region.add_key()
    region.add_alias("alias/moving", one.key_id)
    assert region.room.resolve("alias/moving", region.caller(), action="kms:Encrypt").record == one
    region.add_alias("alias/moving", two.key_id)
    assert region.room.resolve("alias/moving", region.caller(), action="kms:Encrypt").record == two
    region.delete(Table.ALIASES, alias_row(ACCOUNT, "alias/moving"))
    with pytest.raises(NotFoundException):
        region.room.resolve("alias/moving", region.caller(), action="kms:Encrypt")


def test_resolution_is_the_account_s_own(region: RoomOnMemory) -> None:
    """One text means another key to another account, before and after it was resolved."""
    mine, theirs = region.add_key(), region.add_key(account=OTHER_ACCOUNT)
    region.add_alias("alias/same", mine.key_id)
    region.add_alias("alias/same", theirs.key_id, account=OTHER_ACCOUNT)
    for _ in range(2):
        assert region.room.resolve("alias/same", region.caller(), action="kms:Encrypt").record == mine
        other = region.room.resolve("alias/same", region.caller(OTHER_ACCOUNT), action="kms:Encrypt")
        assert other.record == theirs
        with pytest.raises(NotFoundException):
            region.room.resolve(mine.key_id, region.caller(OTHER_ACCOUNT), action="kms:Encrypt")
        with pytest.raises(AccessDeniedException):
            region.room.resolve(key_arn(mine), region.caller(OTHER_ACCOUNT), action="kms:Encrypt")


def test_resolutions_are_bounded(region: RoomOnMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are in use; those used last stay known."""
    monkeypatch.setattr("keycluster.node.room.RESOLUTIONS_MAX", 10)
    record = region.add_key()
    for number in range(100):
        region.add_alias(f"alias/{number}", record.key_id)
    for number in range(100):
        region.room.resolve(f"alias/{number}", region.caller(), action="kms:Encrypt")
        assert len(region.room._resolutions) == min(number + 1, 10)


def test_key_deleted_after_it_was_resolved_is_not_found(region: RoomOnMemory) -> None:
    """The kept meaning of a text is not the key's existence."""
    record = region.add_key()
    region.room.resolve(record.key_id, region.caller(), action="kms:Encrypt")
    region.delete(Table.KEYS, key_row(record.key_id))
    region.delete(Table.ACCOUNT_KEYS, account_key_row(ACCOUNT, record.key_id))
    with pytest.raises(NotFoundException):
        region.room.resolve(record.key_id, region.caller(), action="kms:Encrypt")


def test_blob_keys_are_the_backing_keys_of_all_rotations(region: RoomOnMemory) -> None:
    """The newest encrypts, every one decrypts, and an id that the key never had is None."""
    record = region.add_key()
    old = hot_key(region, record.key_id).current
    blob = old.encrypt(b"before", EMPTY_CONTEXT, bytes(28))
    rotated = region.rotate(record.key_id)
    key = hot_key(region, record.key_id)
    assert key.current.backing_key_id == rotated.backing_keys[1].id
    opened = key.blob_key(rotated.backing_keys[0].id)
    assert opened is not None
    assert opened.decrypt(parse_blob(blob), EMPTY_CONTEXT) == b"before"
    assert key.blob_key(bytes(16)) is None


def test_token_swapped_between_keys_is_refused(region: RoomOnMemory) -> None:
    """A row with another key's token (its MAC good, by a faulty proposer) is never used, and tells no caller why."""
    one, two = region.add_key(), region.add_key()
    swapped = region.change_key(one.key_id, backing_keys=two.backing_keys)
    with pytest.raises(KMSInternalException) as raised:
        _ = hot_key(region, swapped.key_id).current
    assert raised.value.message == ""
    assert one.key_id in raised.value.detail


def test_key_of_a_generation_not_held_is_unavailable_here(region: RoomOnMemory) -> None:
    """Another node may have the generation: the error is retryable."""
    record = region.add_key()
    region.add_access_key("AKIAONE", b"secret")
    region.room.keyring = Keyring(REGION, {2: bytes(32)}, 2)
    with pytest.raises(KeyUnavailableException) as raised:
        _ = hot_key(region, record.key_id).current
    assert raised.value.retryable
    with pytest.raises(KeyUnavailableException):
        region.room.credential("AKIAONE")


def test_credential_is_one_object_until_its_row_changes(region: RoomOnMemory) -> None:
    """What is derived from a secret may be kept with it: a changed row gives another object."""
    region.add_access_key("AKIAONE", b"first secret")
    credential = region.room.credential("AKIAONE")
    assert credential is not None
    assert credential.secret == b"first secret"
    assert region.room.credential("AKIAONE") is credential
    region.add_access_key("AKIAONE", b"second secret")
    changed = region.room.credential("AKIAONE")
    assert changed is not None
    assert changed is not credential
    assert changed.secret == b"second secret"
    region.delete(Table.ACCESS_KEYS, access_key_row("AKIAONE"))
    assert region.room.credential("AKIAONE") is None


def test_credential_names_its_caller(region: RoomOnMemory) -> None:
    """All that authorisation asks of, taken from the row."""
    region.add_access_key("AKIAONE", b"secret", account=OTHER_ACCOUNT)
    credential = region.room.credential("AKIAONE")
    assert credential is not None
    caller = credential.caller("198.51.100.7")
    assert (caller.account, caller.principal) == (OTHER_ACCOUNT, f"arn:aws:iam::{OTHER_ACCOUNT}:root")
    assert (caller.access_key_id, caller.credential_version, caller.source) == ("AKIAONE", 1, "198.51.100.7")


def test_reprs_show_no_secret(region: RoomOnMemory) -> None:
    """Keys and credentials may stand in a log line or traceback."""
    record = region.add_key()
    region.add_access_key("AKIAONE", b"the-very-secret")
    credential = region.room.credential("AKIAONE")
    key = hot_key(region, record.key_id)
    assert repr(key) == f"HotKey({key_arn(record)})"
    assert repr(credential) == "Credential(AKIAONE)"
