"""What the MACs, the chain and the set hash promise."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.store.authentication import LogAuthentication, NotAuthentic, StateAuthentication, StateKeys
from keycluster.cluster.types import LogIndex, Term

KEYS = StateKeys(1, b"r" * 32, b"h" * 32, b"s" * 32, b"l" * 32)
STATE = StateAuthentication(KEYS)
LOG = LogAuthentication(KEYS)

tables = st.integers(0, 2**32 - 1)
contents = st.binary(max_size=40)


@given(tables, contents, contents)
def test_row_sealed_opens_to_its_value(table: int, key: bytes, value: bytes) -> None:
    """What is sealed opens at its own table and key."""
    assert STATE.open_row(table, key, STATE.seal_row(table, key, value)) == value


@given(contents, contents, st.data())
def test_row_with_any_bit_flipped_is_refused(key: bytes, value: bytes, data: st.DataObject) -> None:
    """No bit of a record can be changed."""
    record = bytearray(STATE.seal_row(7, key, value))
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    record[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotAuthentic):
        STATE.open_row(7, key, bytes(record))


@given(st.tuples(tables, contents), st.tuples(tables, contents), contents)
def test_row_moved_is_refused(here: tuple[int, bytes], there: tuple[int, bytes], value: bytes) -> None:
    """A record is good at its own place only, also where key and value would read the same in a row."""
    if here == there:
        return
    with pytest.raises(NotAuthentic):
        STATE.open_row(*there, STATE.seal_row(*here, value))


def test_row_boundary_between_key_and_value_is_bound() -> None:
    """Key "ab" with value "c" is not key "a" with value "bc"."""
    record = STATE.seal_row(1, b"ab", b"c")
    with pytest.raises(NotAuthentic):
        STATE.open_row(1, b"a", record[:-1] + b"bc")


@given(st.binary(max_size=80))
def test_record_of_anything_is_refused(record: bytes) -> None:
    """Any bytes at all give NotAuthentic, nothing else."""
    with pytest.raises(NotAuthentic):
        STATE.open_row(1, b"k", record)
    with pytest.raises(NotAuthentic):
        STATE.open_meta(record)
    with pytest.raises(NotAuthentic):
        LOG.open_meta(record)


def test_records_of_different_uses_are_not_exchangeable() -> None:
    """The state's meta is no row, the log's meta no state's."""
    with pytest.raises(NotAuthentic):
        STATE.open_row(0, b"", STATE.seal_meta(b"body"))
    with pytest.raises(NotAuthentic):
        STATE.open_meta(LOG.seal_meta(b"body"))


def test_record_of_another_generation_is_refused() -> None:
    """A generation's keys open its own records only, and say so."""
    other = StateAuthentication(StateKeys(2, KEYS.row_mac, KEYS.set_hash, KEYS.sum_seal, KEYS.log_mac))
    with pytest.raises(NotAuthentic, match="generation"):
        other.open_row(1, b"k", STATE.seal_row(1, b"k", b"v"))


def test_set_terms_differ_by_table_key_and_value() -> None:
    """Each part of a row counts, and where one part ends."""
    rows = [(1, b"k", b"v"), (2, b"k", b"v"), (1, b"kv", b""), (1, b"", b"kv"), (1, b"k", b"w")]
    assert len({STATE.set_term(*row) for row in rows}) == len(rows)


def test_set_digest_tells_sums_and_indexes_apart_and_is_no_term() -> None:
    """Peers compare sum and index at once; what they see is none of the secret terms."""
    digests = {STATE.set_digest(total, LogIndex(index)) for total in (0, 1) for index in (1, 2)}
    assert len(digests) == 4
    assert STATE.set_term(1, b"k", b"v").to_bytes(32, "big") not in digests


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**63), st.integers(0, 2**63))
def test_sum_opens_at_its_index_only(total: int, index: int, other: int) -> None:
    """The sealed sum hides the sum and is bound to its index."""
    sealed = STATE.seal_sum(total, LogIndex(index))
    assert STATE.open_sum(sealed, LogIndex(index)) == total
    assert total.to_bytes(32, "big") not in sealed
    if other != index:
        with pytest.raises(NotAuthentic):
            STATE.open_sum(sealed, LogIndex(other))


def test_chain_link_binds_all_of_an_entry_and_what_came_before() -> None:
    """Any difference gives another link."""
    start = LOG.chain_start(LogIndex(0), Term(0))
    links = {
        LOG.chain_next(previous, index=LogIndex(index), term=Term(term), kind=kind, payload=payload)
        for previous in (start, b"\0" * 32)
        for index in (1, 2)
        for term in (1, 2)
        for kind in (0, 1)
        for payload in (b"", b"x")
    }
    assert len(links) == 32
    assert LOG.chain_start(LogIndex(5), Term(1)) != LOG.chain_start(LogIndex(5), Term(2))


def test_keys_are_not_shown_and_must_be_whole() -> None:
    """No key in a repr; a short key is refused rather than used."""
    keys = StateKeys(3, *(random.Random(i).randbytes(32) for i in range(4)))
    assert repr(keys) == "StateKeys(generation=3)"
    with pytest.raises(InvariantBroken):
        StateKeys(1, b"short", b"h" * 32, b"s" * 32, b"l" * 32)
