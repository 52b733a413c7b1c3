"""What `keycluster node` runs: one node in this process, until a signal stops it or it must not go on.

Blocking work that needs the seal comes first, then the event loop. A node that must not serve (damaged store, rolled
back, removed, wrong seal) ends with one line and status 1: the region goes on without it.
"""

import logging
import signal
import sys
from collections.abc import Callable
from typing import TextIO

import structlog
import trio
from structlog.typing import EventDict, Processor, WrappedLogger

from keycluster.cli.output import CommandFailed
from keycluster.cluster.invariant import InvariantBroken
from keycluster.cluster.replica import StateDiverged
from keycluster.cluster.seams import FolderInUse, World
from keycluster.cluster.store.errors import StoreError
from keycluster.cluster.witness import RolledBack
from keycluster.node.actors import describe
from keycluster.node.config import NodeConfig
from keycluster.node.hardening import Hardening
from keycluster.node.making import holds_node, lock_data
from keycluster.node.peers import RemovedFromRegion
from keycluster.node.run import Node, open_stores
from keycluster.node.seal_source import open_seal
from keycluster.node.sealing import SealError, open_secrets

STOPPED_BY = (StoreError, RolledBack, StateDiverged, RemovedFromRegion, InvariantBroken, OSError)
"""What a node may end by whose text an operator can use. Anything else is a fault of ours: it shows where."""


def set_up_logging(level: str, file: TextIO | None = None) -> None:
    """One line an event, with its time, on stderr or in `file`. Local variables never get there, nor do bytes."""
    file = file or sys.stderr
    renderer: Processor = structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], bool_as_flag=False
    )
    if file.isatty():  # The default way to print exceptions would show the values of local variables.
        renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_bytes,
            *([] if file.isatty() else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=file),
        cache_logger_on_first_use=True,
    )


def _without_bytes(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Keys and plaintexts are bytes: should one be handed to a log line by mistake, its length is what is seen."""
    for name, value in event.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            event[name] = f"<{len(value)} bytes>"
    return event


def open_node(config: NodeConfig, *, world: World, hardening: Hardening) -> tuple[Node, Callable[[], None]]:
    """The node, wired and not yet running, and what closes it. Blocking. Raises CommandFailed."""
    if not holds_node(config.data, world.disk):
        raise CommandFailed(f"{config.data} holds no node yet", hint="run `keycluster init`, or `keycluster join`")
    try:
        unlock = lock_data(config.data, world.disk)
    except (FolderInUse, OSError) as error:
        raise CommandFailed(str(error)) from None
    try:
        seal = open_seal(config, disk=world.disk)
        secrets = open_secrets(seal, region=config.region, node=config.node, data=config.data, disk=world.disk)
        stores = open_stores(config, secrets, world=world)
        node = Node(config, world=world, secrets=secrets, stores=stores, hardening=hardening)
    except (SealError, StoreError) as error:
        unlock()
        raise CommandFailed(str(error)) from None
    except BaseException:
        unlock()
        raise

    def close() -> None:
        stores.log.close()
        stores.state.close()
        unlock()

    return node, close


async def run_node(node: Node) -> None:
    """Runs it until SIGINT or SIGTERM. Raises CommandFailed where it must not go on."""
    stop = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(stop_on_signal, stop)
            await node.run(stop)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise failure_of(node, group) from None


def failure_of(node: Node, group: BaseExceptionGroup[BaseException]) -> CommandFailed:
    """One line for what a node may end by. Raises the group itself where something else is in it."""
    expected, others = group.split(STOPPED_BY)
    if others is not None or expected is None:
        raise group
    return CommandFailed(f"node {node.config.node} stops: {describe(expected)}")


async def stop_on_signal(stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Sets `stop` at the first one."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()


def run_node_process(config: NodeConfig, *, world: World, hardening: Hardening) -> None:
    """All of it. Blocks. Raises CommandFailed."""
    node, close = open_node(config, world=world, hardening=hardening)
    try:
        trio.run(run_node, node)
    finally:
        close()
