"""What the region does by itself, driven by whichever node leads: deletions and rotations that are due, and the tick.

What is due stands in the state, in order of time (`Table.DUE`), so a look costs what is due and not what exists. Each
command says what its proposer saw, and applying it checks that again: two leaders, or one that looks twice before its
own command is applied, do nothing twice. A command that is lost is proposed again at the next look.

Time is cluster time. While it is in doubt (timekeeping.py) deletions aren't proposed, and would be refused.
"""

from collections.abc import Iterator

import structlog
import trio

from keycluster.cluster.keys.commands import (
    CommandBody,
    CompleteKeyDeletion,
    Outcome,
    RotateKeyAutomatically,
    Tick,
    encode_command,
    region_caller,
)
from keycluster.cluster.keys.records import (
    DueKind,
    KeyRecord,
    Table,
    due_prefix,
    load_clock,
    load_key,
    parse_due_row,
)
from keycluster.cluster.keys.timekeeping import destruction_held
from keycluster.cluster.types import ClusterTime
from keycluster.cluster.wire.errors import KmsError
from keycluster.node.operations.writes import new_backing_key
from keycluster.node.room import Room

LOOK_EVERY_S = 5.0  # A deletion or rotation is late by up to this.
BATCH = 32  # Commands of one kind proposed at a time: maintenance must not crowd out callers.
PROPOSAL_S = 10.0  # How long one command is waited for before it is left to the next look.

log = structlog.get_logger(__name__)


class Maintenance:
    """Runs at every node, acts at the leader. Restarting it loses nothing."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._caller = region_caller(room.node)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Looks for work until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """One tick, then everything that is due, a batch at a time."""
        if not self._leads():
            return
        await self._carry_out([Tick()])
        while self._leads() and (commands := self.due()):
            if not await self._carry_out(commands):
                return

    def due(self) -> list[CommandBody]:
        """Commands for what is due now: at most a batch of each kind, soonest first. Empty if time isn't known."""
        now = self._room.consensus.cluster_time()
        if now is None:
            return []
        return [*self._deletions(now), *self._rotations(now)]

    def _leads(self) -> bool:
        return self._room.consensus.leader == self._room.node

    def _deletions(self, now: ClusterTime) -> Iterator[CommandBody]:
        clock = load_clock(self._room.view)
        if clock is None or destruction_held(clock):
            return
        for at, key in self._due_keys(DueKind.DELETION, now):
            yield CompleteKeyDeletion(key.key_id, at)

    def _rotations(self, now: ClusterTime) -> Iterator[CommandBody]:
        for _, key in self._due_keys(DueKind.ROTATION, now):
            backing = new_backing_key(
                self._room, key.account, key.key_id, spec=key.spec, usage=key.usage, origin=key.origin
            )
            yield RotateKeyAutomatically(key.key_id, key.current.id, backing)

    def _due_keys(self, kind: DueKind, now: ClusterTime) -> Iterator[tuple[ClusterTime, KeyRecord]]:
        view = self._room.view
        for row, _ in view.scan(Table.DUE, prefix=due_prefix(kind), limit=BATCH):
            at, key_id = parse_due_row(row)
            if at > now:
                return
            key = load_key(view, key_id)
            if key is not None:
                yield at, key

    async def _carry_out(self, commands: list[CommandBody]) -> bool:
        """Proposes all at once. Whether every one of them was carried out: if not, the next look tries again."""
        carried_out: list[CommandBody] = []

        async def one(body: CommandBody) -> None:
            if await self._propose(body):
                carried_out.append(body)

        async with trio.open_nursery() as nursery:
            for body in commands:
                nursery.start_soon(one, body)
        return len(carried_out) == len(commands)

    async def _propose(self, body: CommandBody) -> bool:
        outcome: Outcome | None = None
        with trio.move_on_after(PROPOSAL_S):
            try:
                outcome = await self._room.consensus.propose(encode_command(body, self._caller))
            except KmsError as refusal:
                log.info("maintenance has to wait", command=type(body).__name__, reason=refusal.message)
                return False
        if outcome is None or outcome.error_code is None:
            return outcome is not None
        log.info("maintenance was refused", command=type(body).__name__, reason=outcome.error_message)
        return False
