"""Calls to a region: which node gets them, and what happens when one doesn't answer, or refuses.

- A call goes to the node of choice, and stays with it until it answers or the connection is lost.
- Lost connections and refusals that say "another node may" are retried at the next node at once. When all have been
  tried, after a pause with decorrelated jitter. A throttled call pauses each time. All ends at the call's deadline.
- Retrying is safe: reads and the data plane change nothing; a change carries the same request id each time, by which
  the region makes it once (security.md, 7). The region remembers it for minutes, so no attempt is made once the call's
  time is over, be it that this process was stopped or its machine slept meanwhile.
- A refusal that is no "try elsewhere" is raised as it is. At the deadline the last refusal is raised, if any; but
  where a change was sent and not answered, or a node says that it may be made yet, that nobody knows whether it was.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import Raw

from keycluster.client.calls import Operation, R
from keycluster.client.connection import Connection, ConnectionLost
from keycluster.client.endpoints import Endpoints
from keycluster.client.errors import (
    ClientClosed,
    DeadlineExceeded,
    KeyClientError,
    NodeNotTrusted,
    NodesUnreachable,
    RequestTooLarge,
)
from keycluster.client.login import RefusedAtLogIn, log_in
from keycluster.client.nodes import KnownNode, NodeStatistics, by_preference, decorrelated
from keycluster.client.runtime import Runtime, current_runtime
from keycluster.client.surroundings import Connect, Surroundings
from keycluster.client.transport import StreamBroken
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import KmsError, ThrottlingException, error_of
from keycluster.cluster.wire.frames import NONCE_BYTES, FrameMalformed, Reply, decode_failure
from keycluster.cluster.wire.operations import Shape

CONNECT_SECONDS_MAX = 3.0  # TCP, TLS and log-in take 5 ms; a stopped process takes the connection and says nothing.
CONNECT_PATIENCE_SECONDS = 0.3  # How long one call waits for a connection before it goes to the next node.
PAUSE_SECONDS_MIN = 0.01
PAUSE_SECONDS_MAX = 0.25

_encode = msgspec.msgpack.Encoder().encode


class _Tries:
    """One call's way through the nodes."""

    __slots__ = (
        "deadline",
        "failed_at",
        "last_error",
        "machine_deadline",
        "nodes",
        "pause_seconds",
        "unanswered",
        "was_throttled",
    )

    def __init__(self, nodes: list[KnownNode], deadline: float) -> None:
        self.nodes = nodes
        self.deadline = deadline
        self.machine_deadline = math.inf  # Of a change: on `Surroundings.machine_seconds`.
        self.failed_at: list[KnownNode] = []  # Since the last time that all had been tried.
        self.pause_seconds = 0.0
        self.was_throttled = False
        self.unanswered = False  # It was sent to a node that never answered it, or doesn't know what became of it.
        self.last_error: KmsError | None = None


class Region:
    """The nodes of one region and the connections to them. `running` is around all use."""

    def __init__(self, endpoints: Endpoints, *, az: str | None, in_flight_max: int, surroundings: Surroundings) -> None:
        self._endpoints = endpoints
        self._surroundings = surroundings
        self._connect_to: Connect = surroundings.connect_by(endpoints.ca_file)
        self._in_flight_max = in_flight_max
        self._jitter = surroundings.new_jitter()
        self._nodes = by_preference(endpoints.nodes, az, self._jitter)
        self._group: TaskGroup | None = None
        self._runtime: Runtime | None = None  # None outside of `running`.

    @asynccontextmanager
    async def running(self, timeout: float) -> AsyncIterator[None]:
        """Connects to a node within `timeout` seconds; at the end closes all connections and ends all tasks."""
        if self._runtime is not None:
            raise ClientClosed("the client is open already")
        self._runtime = current_runtime()
        error_of_body: Exception | None = None
        try:
            async with anyio.create_task_group() as self._group:
                try:
                    await self._connect_first(_Tries(self._nodes, self._runtime.now() + timeout))
                    yield
                except Exception as error:  # noqa: BLE001  # Raised below: the task group would wrap it into a group.
                    error_of_body = error
                finally:
                    self._runtime = None
                self._group.cancel_scope.cancel()
        finally:
            self._runtime = self._group = None
        if error_of_body is not None:
            raise error_of_body

    def find(self, node: NodeId) -> list[KnownNode]:
        """That node, to be the only one that a call is made at. Raises ValueError if the region hasn't got it."""
        found = [known for known in self._nodes if known.address.node == node]
        if not found:
            names = ", ".join(sorted(known.address.node for known in self._nodes))
            raise ValueError(f"no node {node} in {self._endpoints.region}, but {names}")
        return found

    def statistics(self) -> tuple[NodeStatistics, ...]:
        """Of each node, the preferred ones first."""
        return tuple(node.statistics() for node in self._nodes)

    async def call(
        self, operation: Operation[R], request: Shape, *, timeout: float, only_at: list[KnownNode] | None = None
    ) -> R:
        """One call, retried until `timeout` seconds have passed. With `only_at` no other node is asked.

        Raises the `KmsError` that the region answers with, or a `KeyClientError`.
        """
        tries = _Tries(only_at or self._nodes, self._clock() + timeout)
        body = Raw(_encode(request))
        request_id = None
        if operation.is_change:
            request_id = self._surroundings.new_request_id()
            tries.machine_deadline = self._surroundings.machine_seconds() + timeout
        while True:
            node = self._choose(tries)
            connection = node.connection
            if connection is None or not connection.is_open:
                connection = await self._connected(node, tries)
            if connection is not None:
                _check_length(body, connection)
                if request_id is not None and self._surroundings.machine_seconds() > tries.machine_deadline:
                    self._raise_outcome(tries, operation)  # The machine slept: the loop's clock didn't notice.
                try:
                    reply = await connection.ask(operation.name, body, request_id=request_id, deadline=tries.deadline)
                except ConnectionLost as lost:
                    tries.unanswered |= lost.was_sent
                except DeadlineExceeded:
                    tries.unanswered = True
                    self._raise_outcome(tries, operation)
                else:
                    if not reply.failed:
                        node.mark_answered()
                        return _decode(operation, reply)
                    self._take_failure(node, tries, reply)
            tries.failed_at.append(node)
            await self._before_next(tries, operation)

    def _clock(self) -> float:
        if self._runtime is None:
            raise ClientClosed("the client is not open: use it inside `async with`")
        return self._runtime.now()

    def _choose(self, tries: _Tries) -> KnownNode:
        """The usable node that is preferred most among those that haven't failed the call; else who is back first."""
        for node in tries.nodes:
            if node not in tries.failed_at and (node.is_well or node.is_usable(self._clock())):
                return node
        untried = [node for node in tries.nodes if node not in tries.failed_at]
        return min(untried or tries.nodes, key=lambda node: node.down_until)

    def _take_failure(self, node: KnownNode, tries: _Tries, reply: Reply[Raw]) -> None:
        """Raises the node's refusal unless it says that another node may do it."""
        try:
            failure = decode_failure(reply.body)
        except FrameMalformed as error:
            raise KeyClientError(f"{node.address.node} refuses in a way that isn't understood") from error
        refusal = error_of(failure.code, failure.message)
        if not failure.retryable:
            raise refusal
        tries.last_error = refusal
        tries.unanswered |= refusal.may_be_made
        if isinstance(refusal, ThrottlingException):
            tries.was_throttled = True
        else:
            node.mark_refused(self._clock(), self._jitter)

    async def _before_next(self, tries: _Tries, operation: Operation[R] | None) -> None:
        """Pauses where all nodes have failed or one was overloaded; raises where no time is left for that."""
        tried_all = len(tries.failed_at) >= len(tries.nodes)
        if tried_all or tries.was_throttled:
            tries.pause_seconds = decorrelated(tries.pause_seconds, PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX, self._jitter)
            no_time_left = self._clock() + tries.pause_seconds >= tries.deadline
            if no_time_left or self._are_all_strangers(tries):
                self._raise_outcome(tries, operation)
            await anyio.sleep(tries.pause_seconds)
            tries.was_throttled = False
        if tried_all:
            tries.failed_at.clear()

    def _raise_outcome(self, tries: _Tries, operation: Operation[R] | None) -> NoReturn:
        """What a call has come to whose time is over."""
        if tries.unanswered and operation is not None and (operation.is_change or tries.last_error is None):
            unknown = "; it may have been made" if operation.is_change else ""
            raise DeadlineExceeded(f"no answer to {operation.name} within its time{unknown}") from tries.last_error
        if tries.last_error is not None:
            raise tries.last_error
        troubles = {node.address.node: node.trouble for node in tries.nodes if node.trouble is not None}
        text = "; ".join(f"{name}: {trouble}" for name, trouble in sorted(troubles.items()))
        if self._are_all_strangers(tries):
            raise NodeNotTrusted(text)
        raise NodesUnreachable(f"no node of {self._endpoints.region} could be reached ({text or 'no answer yet'})")

    @staticmethod
    def _are_all_strangers(tries: _Tries) -> bool:
        """Whether another round is of no use: no node could prove who it is."""
        return all(node.connection is None and isinstance(node.trouble, NodeNotTrusted) for node in tries.nodes)

    # Connecting.

    async def _connect_first(self, tries: _Tries) -> None:
        """Until one node is connected: a wrong address, secret or certificate shows when the client is opened."""
        while True:
            node = self._choose(tries)
            if await self._connected(node, tries) is not None:
                return
            tries.failed_at.append(node)
            await self._before_next(tries, None)

    async def _connected(self, node: KnownNode, tries: _Tries) -> Connection | None:
        """The node's connection, made if need be; None if that fails or takes longer than a call should wait for one.

        Raises the node's answer to the log-in where another attempt would get the same.
        """
        if self._runtime is None or self._group is None:
            raise ClientClosed("the client is not open: use it inside `async with`")
        if not node.is_kept:
            node.is_kept = True
            node.attempt = self._runtime.new_event()
            self._group.start_soon(self._keep, node, self._runtime)
        if node.attempt is not None:
            patience = tries.deadline - self._runtime.now()
            if len(tries.nodes) > 1:
                patience = min(patience, CONNECT_PATIENCE_SECONDS)
            with anyio.move_on_after(patience):
                await node.attempt.wait()
        if node.refusal is not None:
            raise node.refusal
        return node.connection if node.connection is not None and node.connection.is_open else None

    async def _keep(self, node: KnownNode, runtime: Runtime) -> None:
        """Connects, serves the connection and connects again when it breaks, until it ends in peace or for good."""
        try:
            while True:
                connection = await self._attempt(node, runtime)
                if connection is not None:
                    node.mark_connected(connection)
                self._end_attempt(node)
                if connection is not None:
                    await connection.run()
                    node.connection = None
                    if connection.ended_while_idle:
                        return
                elif node.refusal is not None:
                    return
                await anyio.sleep(node.mark_down(runtime.now(), self._jitter))
                node.attempt = runtime.new_event()
        finally:
            node.is_kept = False
            node.connection = None
            self._end_attempt(node)

    @staticmethod
    def _end_attempt(node: KnownNode) -> None:
        if node.attempt is not None:
            node.attempt.set()
            node.attempt = None

    async def _attempt(self, node: KnownNode, runtime: Runtime) -> Connection | None:
        """A logged-in connection, or None with the reason in `trouble` or, if it is final, `refusal`."""
        node.refusal = None
        with anyio.move_on_after(CONNECT_SECONDS_MAX):
            try:
                return await self._connect(node, runtime)
            except (StreamBroken, NodeNotTrusted) as error:
                node.trouble = error
            except RefusedAtLogIn as refused:
                node.trouble = refused.error
                node.refusal = None if refused.retryable else refused.error
            return None
        node.trouble = StreamBroken(f"no log-in within {CONNECT_SECONDS_MAX:g} s")
        return None

    async def _connect(self, node: KnownNode, runtime: Runtime) -> Connection:
        address = node.address
        stream = await self._connect_to(address.host, address.port)
        try:
            welcome = await log_in(
                stream,
                self._endpoints.credentials,
                region=self._endpoints.region,
                node=address.node,
                nonce=self._surroundings.random_bytes(NONCE_BYTES),
            )
        except BaseException:
            await stream.aclose()
            raise
        return Connection(stream, welcome, runtime, in_flight_max=self._in_flight_max)


def _check_length(body: Raw, connection: Connection) -> None:
    if len(body) > connection.request_bytes_max:
        raise RequestTooLarge(f"the request has {len(body)} bytes; {connection.request_bytes_max} is the limit")


def _decode(operation: Operation[R], reply: Reply[Raw]) -> R:
    try:
        return operation.decoder.decode(reply.body)
    except msgspec.MsgspecError as error:
        raise KeyClientError(f"the answer to {operation.name} isn't understood: {error}") from None
