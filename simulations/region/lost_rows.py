"""A disk that loses a row without a trace: a page was written, the disk said so, and the write came to nothing.

Each row that is left has its MAC, the pages are sound, and a snapshot made of them gets the MAC of a whole file. Only
the set hash tells that a row is missing (cluster/store/rows.py). So it happens to a leader that runs, while another
voter is away for so long that it needs a snapshot: that must be refused, and when the leader starts again it must find
its state damaged. Then the others go on, who have all that is committed.

The row is that of the oldest request that is remembered: one that nobody asks for any more.
"""

import random
from functools import partial
from pathlib import Path

import apsw
import trio

from keycluster.cluster.keys.records import RequestRecord, Table, decode_record
from keycluster.cluster.store.state import FILE_NAME, StateView
from keycluster.node.making import STATE_FOLDER
from keycluster.simulations.faults import Fault, FaultKind
from keycluster.simulations.region.loss_faults import bit_rot, calm, can_be_spared, until_clear
from keycluster.simulations.region.nemesis import Nemesis, Strike
from keycluster.simulations.region.node import SimNode
from keycluster.simulations.region.node_faults import NO_LOG_KEPT

CHANCE = 0.3  # That bit rot is this, where there is a leader that can be spared.
OVERTAKEN_S_MAX = 3.0
OFFERED_S = 2.0  # A snapshot is made, sent and looked at in a tenth of this.
ROWS_MAX = 10_000


def rot(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    """Decided by numbers of its own: what else bit rot does stays as it was."""
    own = random.Random(f"lost row/{fault.seed}")
    done = _lose_row(nemesis, fault, own) if own.random() < CHANCE else None
    return bit_rot(nemesis, fault, rng) if done is None else done


def _lose_row(nemesis: Nemesis, fault: Fault, rng: random.Random) -> str | None:
    region = nemesis.region
    leader, members = region.leader(), region.membership()
    if leader is None or members is None or not can_be_spared(nemesis, leader):
        return None
    others = [name for name in members.voters if name != leader.name]
    away = region.nodes[rng.choice(others)]
    nemesis.in_background(partial(_lose_and_send, nemesis, fault, leader, away))
    return f"a row of {leader.name}, and {away.name} needs a snapshot"


async def _lose_and_send(nemesis: Nemesis, fault: Fault, leader: SimNode, away: SimNode) -> None:
    if not await calm(nemesis, leader):
        return
    running, behind = leader.running, away.running
    row = _oldest_request(running.stores.state.view) if running is not None else None
    if running is None or behind is None or row is None or nemesis.region.leader() is not leader:
        nemesis.doubtful = None
        return
    last = behind.stores.log.last_index
    away.crash("crash before a snapshot that lacks a row")
    path = leader.config.data / STATE_FOLDER / FILE_NAME
    _delete(leader, path, row)
    nemesis.took_effect(fault)
    leader.rotten.add(path)
    running.driver.retention = NO_LOG_KEPT
    try:
        with trio.move_on_after(OVERTAKEN_S_MAX):
            await nemesis.region.until(lambda: running.stores.log.first_index > last + 1)
        nemesis.region.start_now(away)
        with trio.move_on_after(OFFERED_S):
            await nemesis.region.until(lambda: away.serves)
    finally:  # Whatever comes in between: all snapshots of it are refused, so it must not lead for ever.
        leader.crash("crash by which its damage is found")
        nemesis.region.start_now(away)
    await until_clear(nemesis, leader, fault.for_ns)


def _oldest_request(view: StateView) -> bytes | None:
    rows = view.scan(Table.REQUESTS, limit=ROWS_MAX)
    return min(rows, key=lambda row: (decode_record(row[1], RequestRecord).expires, row[0]))[0] if rows else None


def _delete(node: SimNode, path: Path, row: bytes) -> None:
    """Beside the node, which keeps the sum of what it wrote."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=node.disk.vfs)
    try:
        connection.execute("DELETE FROM rows WHERE tab = ? AND key = ?", (Table.REQUESTS, row))
    finally:
        connection.close(True)


LOST_ROW_STRIKES: dict[FaultKind, Strike] = {FaultKind.BIT_ROT: rot}
