"""A node whose disk was changed doesn't serve it: it says so in one line and ends, and the region goes on."""

import random
import re
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import trio

from keycluster import KeyClient, errors
from keycluster.cluster.keys.records import Table
from keycluster.cluster.store.errors import StoreDamaged
from tests.region.dev_region import DevRegion, dev_region, rounds
from tests.region.node_disk import NodeDisk, flip_byte, sql
from tests.region.steady_load import PLAINTEXT, steady_load, until_serves

VICTIM = "n3"
SERVES = "serves"
DECIDES_WITHIN_S = 30.0
KEYS = 6


@dataclass
class Victim:
    """A node that is down, its disk as it was last whole, and what every node must know."""

    region: DevRegion
    client: KeyClient
    place: Path
    key_ids: list[str] = field(default_factory=list)
    blob: bytes = b""
    said: Counter[str] = field(default_factory=Counter)

    @property
    def disk(self) -> NodeDisk:
        return NodeDisk.of(self.region.node_folder(VICTIM))

    async def fill(self) -> Self:
        """Some keys of each kind of row, all applied at the victim, which is killed then."""
        for number in range(KEYS):
            created = await self.client.create_key(description=f"key {number}")
            self.key_ids.append(created.key_metadata.key_id)
            await self.client.create_alias(alias_name=f"alias/key-{number}", target_key_id=self.key_ids[-1])
        self.blob = (await self.client.encrypt(key_id=self.key_ids[0], plaintext=PLAINTEXT)).ciphertext_blob
        self.stop()
        return self

    def stop(self) -> None:
        """Power off. What is on the disk now is whole and newest."""
        self.region.kill_node(VICTIM)
        self.disk.copy_to(self.place)

    def restore(self, image: Path | None = None) -> NodeDisk:
        """The disk put back, for the next try at it; by default as it was last whole."""
        shutil.rmtree(self.disk.data)
        shutil.copytree(image or self.place, self.disk.data)
        return self.disk

    async def start(self) -> str:
        """What comes of starting it: its one line, or `SERVES`, and then all it serves is right."""
        run = self.region.run_node(VICTIM)
        with trio.fail_after(DECIDES_WITHIN_S):
            while run.process.poll() is None:
                if await self._serves():
                    await self._check_answers()
                    self.stop()
                    self.said[SERVES] += 1
                    return SERVES
                await trio.sleep(0.02)
        assert run.process.returncode == 1, run.text
        assert len(run.last_words) == 1, run.text
        assert run.last_words[0].startswith("keycluster: "), run.text
        self.said[re.sub(r"\b\d+", "N", run.last_words[0].replace(str(self.disk.folder), ""))] += 1
        return run.last_words[0]

    async def _serves(self) -> bool:
        try:
            return (await self.client.at(VICTIM).node_status(timeout=0.5)).serving
        except (errors.KmsError, errors.KeyClientError):
            return False

    async def _check_answers(self) -> None:
        at_victim, elsewhere = self.client.at(VICTIM), self.client.at("n1")
        for key_id in self.key_ids:
            expected = (await elsewhere.describe_key(key_id=key_id)).key_metadata
            assert (await at_victim.describe_key(key_id=key_id)).key_metadata == expected
        assert (await at_victim.decrypt(ciphertext_blob=self.blob)).plaintext == PLAINTEXT
        found = (await at_victim.list_aliases(limit=100)).aliases
        assert found == (await elsewhere.list_aliases(limit=100)).aliases

    def figures(self) -> str:
        return "\n".join(f"    {count:4} x {what}" for what, count in self.said.most_common())


@pytest.mark.timeout(2400)
async def test_one_byte_flipped_anywhere_on_the_disk(tmp_path: Path) -> None:
    """In any file: the node ends with one line, or the byte meant nothing and all its answers are right."""
    samples, choice = rounds(15, 1), random.Random(4)
    with dev_region(tmp_path / "region") as region:
        async with KeyClient.from_endpoints(region.endpoints_file) as client, steady_load(region) as load:
            victim = await Victim(region, client, tmp_path / "image").fill()
            names = sorted(path.relative_to(victim.place) for path in victim.place.rglob("*") if path.stat().st_size)
            names = [name for name in names if (victim.place / name).is_file() and not name.name.endswith("-shm")]
            for name in names:
                for _ in range(samples):
                    path = victim.restore().data / name
                    flip_byte(path, choice.randrange(path.stat().st_size))
                    await victim.start()
            for database in ("log/log.db", "state/state.db"):  # While a WAL has newer pages, theirs are not read.
                for _ in range(rounds(30, 1)):
                    disk = victim.restore()
                    settle(disk)
                    flip_byte(disk.data / database, choice.randrange((disk.data / database).stat().st_size))
                    await victim.start()
            await load.until_more_writes()
            victim.restore()
            assert await victim.start() == SERVES
    print(f"\n{samples} bytes flipped in each of {', '.join(map(str, names))}:\n{victim.figures()}\n    region: {load}")
    assert {"log.db", "log.db-wal", "state.db", "state.db-wal", "node.sealed"} <= {name.name for name in names}
    load.assert_unharmed()


@pytest.mark.timeout(300)
async def test_rows_changed_swapped_or_put_back(tmp_path: Path) -> None:
    """By someone who knows the schema: never served, said in one line; the node is replaced by another."""
    with dev_region(tmp_path / "region") as region:
        async with KeyClient.from_endpoints(region.endpoints_file) as client, steady_load(region) as load:
            victim = await Victim(region, client, tmp_path / "image").fill()
            old = NodeDisk.of(victim.disk.folder).copy_to(tmp_path / "old")
            assert await victim.start() == SERVES  # And has acknowledged more since.
            region.restart_node(VICTIM)
            await until_serves(region, VICTIM)
            await lead(client, VICTIM)
            for key_id in victim.key_ids[1:]:
                await client.disable_key(key_id=key_id)
            await load.until_more_writes()
            victim.stop()

            a, b = (key_id.encode() for key_id in victim.key_ids[:2])
            for attack in (
                lambda disk: swap_rows(disk, a, b),
                lambda disk: put_back_row(disk, old, b),
                delete_a_row,
                delete_last_entries,
                lambda disk: shutil.copy(old.log, disk.log),
            ):
                disk = victim.restore()
                settle(disk)
                settle(old)
                attack(disk)
                line = await victim.start()
                assert "is damaged" in line, line
            assert "rolled back" in await started_from(victim, old)
            # The old state with the whole log is no lie: the log tells the rest.
            disk = victim.restore()
            settle(disk)
            shutil.copy(old.state, disk.state)
            assert await victim.start() == SERVES

            victim.restore()
            assert (await trio.to_thread.run_sync(region.operate, "remove", VICTIM)).returncode == 0
            assert "was removed" in await victim.start()
            await trio.to_thread.run_sync(region.join_node, "n4", "us-east-1c")
            await until_serves(region, "n4", role="voter")
            await load.until_more_writes()
    print(f"\nrows changed by SQL and disks put back:\n{victim.figures()}\n    replaced by n4; region: {load}")
    load.assert_unharmed()


async def lead(client: KeyClient, name: str) -> None:
    """Lets it lead: what it acknowledged is then its own word."""
    leader = str((await client.node_status()).leader)
    if leader != name:
        await client.at(leader).transfer_leadership(node_id=name)
    with trio.fail_after(10):
        while (await client.at(name).node_status()).leader != name:
            await trio.sleep(0.02)


async def started_from(victim: Victim, old: NodeDisk) -> str:
    """The last hour's copy of the whole folder put back."""
    victim.restore(old.data)
    return await victim.start()


def settle(disk: NodeDisk) -> None:
    """Everything is in the database files; there are no WALs."""
    for path in (disk.log, disk.state):
        with sql(path):
            pass


def swap_rows(disk: NodeDisk, a: bytes, b: bytes) -> None:
    """Two keys' records, each well-formed and authentic in its own place."""
    with sql(disk.state) as state:
        records = [_key_record(state, key) for key in (a, b)]
        for key, record in ((a, records[1]), (b, records[0])):
            state.execute("UPDATE rows SET record = ? WHERE tab = ? AND key = ?", (record, Table.KEYS, key))


def put_back_row(disk: NodeDisk, old: NodeDisk, key: bytes) -> None:
    """The record of a time when the key was enabled."""
    with sql(old.state) as state:
        record = _key_record(state, key)
    with sql(disk.state) as state:
        assert _key_record(state, key) != record
        state.execute("UPDATE rows SET record = ? WHERE tab = ? AND key = ?", (record, Table.KEYS, key))


def _key_record(state: sqlite3.Connection, key: bytes) -> bytes:
    row = state.execute("SELECT record FROM rows WHERE tab = ? AND key = ?", (Table.KEYS, key)).fetchone()
    return bytes(row[0])


def delete_a_row(disk: NodeDisk) -> None:
    with sql(disk.state) as state:
        state.execute("DELETE FROM rows WHERE key = (SELECT max(key) FROM rows WHERE tab = ?)", (Table.ALIASES,))


def delete_last_entries(disk: NodeDisk) -> None:
    with sql(disk.log) as log:
        log.execute("DELETE FROM entries WHERE idx > (SELECT max(idx) - 3 FROM entries)")


@pytest.mark.timeout(120)
async def test_one_byte_flipped_in_every_row(tmp_path: Path) -> None:
    """Of a node's log and state, each in turn: opening the stores refuses it. Without its seal a disk opens nothing."""
    choice = random.Random(5)
    with dev_region(tmp_path / "region") as region:
        async with KeyClient.from_endpoints(region.endpoints_file) as client:
            victim = await Victim(region, client, tmp_path / "image").fill()
            copy = victim.disk.copy_to(tmp_path / "copy")
            settle(copy)
            flipped = 0
            for database, table in ((copy.state, "rows"), (copy.state, "meta"), (copy.log, "entries"),
                                    (copy.log, "meta")):  # fmt: skip
                for rowid in _rows(database, table):
                    whole = database.read_bytes()
                    _flip_in_row(database, table, rowid, choice)
                    with pytest.raises(StoreDamaged), copy.stores():
                        pass
                    for suffix in ("-wal", "-shm"):
                        database.with_name(database.name + suffix).unlink(missing_ok=True)
                    database.write_bytes(whole)
                    flipped += 1
            with copy.stores() as stores:
                assert stores.state.view.count(Table.KEYS) == KEYS
            await check_seals(victim)
    print(f"\na byte flipped in each of {flipped} rows: all refused\n{victim.figures()}")


async def check_seals(victim: Victim) -> None:
    """Neither without a seal, nor with another one, nor with another node's file."""
    seal = victim.disk.folder / "seal.key"
    own, other = seal.read_bytes(), NodeDisk.of(victim.region.node_folder("n1"))
    seal.unlink()
    assert "the seal's key file is not there" in await victim.start()
    seal.write_bytes(bytes(range(32)))
    assert "the seal does not open" in await victim.start()
    seal.write_bytes((other.folder / "seal.key").read_bytes())
    shutil.copy(other.sealed, victim.disk.sealed)
    assert "belongs to node" in await victim.start()
    seal.write_bytes(own)
    victim.restore()
    assert await victim.start() == SERVES


def _rows(database: Path, table: str) -> list[tuple[object, ...]]:
    keys = {"rows": "tab, key", "meta": "id", "entries": "idx"}[table]
    with sql(database) as connection:
        return list(connection.execute(f"SELECT {keys} FROM {table}"))


def _flip_in_row(database: Path, table: str, key: tuple[object, ...], choice: random.Random) -> None:
    where = {"rows": "tab = ? AND key = ?", "meta": "id = ?", "entries": "idx = ?"}[table]
    with sql(database) as connection:
        record = bytearray(connection.execute(f"SELECT record FROM {table} WHERE {where}", key).fetchone()[0])
        record[choice.randrange(len(record))] ^= 1 << choice.randrange(8)
        connection.execute(f"UPDATE {table} SET record = ? WHERE {where}", (bytes(record), *key))
