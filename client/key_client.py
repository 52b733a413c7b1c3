"""`KeyClient`: what an application talks to a region with."""

import math
import os
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from keycluster.client.calls import Operation, R
from keycluster.client.endpoints import Endpoints, read_endpoints
from keycluster.client.envelope import streams
from keycluster.client.envelope.decryptor import FRAME_BYTES_MAX_DEFAULT
from keycluster.client.envelope.files import AsyncSink, AsyncSource, Sink, Source
from keycluster.client.envelope.format import FRAME_BYTES_DEFAULT, Suite
from keycluster.client.envelope.streams import EnvelopeResult, Progress
from keycluster.client.nodes import KnownNode, NodeStatistics
from keycluster.client.operations.admin import AdminOperations
from keycluster.client.operations.data import DataOperations
from keycluster.client.operations.keys import KeyOperations
from keycluster.client.operations.labels import LabelOperations
from keycluster.client.region import Region
from keycluster.client.surroundings import REAL, Surroundings
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.operations import Shape

TIMEOUT_SECONDS = 10.0  # An election takes 1 s, and one more for the leases: a call outlives several.
FOR_EVER_SECONDS = 1e9  # What `math.inf` is taken for: thirty years, which deadlines can be reckoned with.
IN_FLIGHT_MAX = 1024  # On one connection; a node allows as many or fewer. What is more waits here.


class RegionOperations(DataOperations, KeyOperations, LabelOperations, AdminOperations):
    """All operations, at whichever node is best or always at one."""

    def __init__(self, region: Region, *, timeout: float, only_at: list[KnownNode] | None = None) -> None:
        self._region = region
        self._timeout = _finite(timeout)
        self._only_at = only_at

    def _call(self, operation: Operation[R], request: Shape, timeout: float | None) -> Awaitable[R]:
        seconds = self._timeout if timeout is None else _finite(timeout)
        return self._region.call(operation, request, timeout=seconds, only_at=self._only_at)


def _finite(timeout: float) -> float:
    """Raises ValueError for NaN, which is neither before nor after any time."""
    if math.isnan(timeout):
        raise ValueError("a timeout is a number of seconds")
    return min(timeout, FOR_EVER_SECONDS)


class KeyClient(RegionOperations):
    """A client of one region, on trio or asyncio. Used as `async with KeyClient…(…) as client:`.

    It connects on entry and closes all on exit; any number of tasks may call it in between, and calls made at the same
    time share frames. Each call ends within its `timeout`, at worst with `DeadlineExceeded`, and may be cancelled. It
    is retried at other nodes where that is safe; a retried change is made once. What the region refuses is raised as
    the `KmsError` it is. See `keycluster.errors`.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        az: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        in_flight_max: int = IN_FLIGHT_MAX,
        surroundings: Surroundings = REAL,
    ) -> None:
        """`az`: the caller's own; its nodes are preferred. `timeout`: seconds for a call, and for connecting.
        `surroundings`: for simulations and tests only (client/surroundings.py).

        Raises OSError or ssl.SSLError if `ca_file` can't be read, ValueError if there are no nodes or no such time.
        """
        if not endpoints.nodes:
            raise ValueError(f"no nodes of {endpoints.region} are given")
        region = Region(endpoints, az=az, in_flight_max=in_flight_max, surroundings=surroundings)
        super().__init__(region, timeout=timeout)
        self._surroundings = surroundings
        self._running: AbstractAsyncContextManager[None] | None = None

    @classmethod
    def from_endpoints(
        cls,
        path: str | os.PathLike[str],
        *,
        region: str | None = None,
        az: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> Self:
        """From the `endpoints.json` that `keycluster dev` writes, or its folder. Without `region`: the first in it.

        Raises OSError if it can't be read, ValueError if it isn't such a file or hasn't the region.
        """
        return cls(read_endpoints(path, region), az=az, timeout=timeout, in_flight_max=in_flight_max)

    async def __aenter__(self) -> Self:
        running = self._region.running(self._timeout)
        await running.__aenter__()
        self._running = running
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        running, self._running = self._running, None
        return None if running is None else await running.__aexit__(kind, error, traceback)

    def at(self, node: str) -> RegionOperations:
        """The same operations at that node only, for whoever wants to know what this very node says.

        Valid as long as the client is open. Raises ValueError if the region hasn't got the node.
        """
        return RegionOperations(self._region, timeout=self._timeout, only_at=self._region.find(NodeId(node)))

    def statistics(self) -> tuple[NodeStatistics, ...]:
        """How each node does as this client sees it, the preferred ones first."""
        return self._region.statistics()

    # Envelope encryption.

    async def encrypt_stream(
        self,
        source: Source | AsyncSource,
        sink: Sink | AsyncSink,
        *,
        key_id: str,
        encryption_context: Mapping[str, str] | None = None,
        suite: Suite = Suite.SIGNED,
        frame_bytes: int = FRAME_BYTES_DEFAULT,
        progress: Progress | None = None,
    ) -> EnvelopeResult:
        """Encrypts a binary file of any size, plain or async, under a data key of its own. Memory stays flat.

        The message is one of the AWS Encryption SDK (format version 2). `progress` is called with the bytes read so
        far. Neither file is closed. Raises what `generate_data_key` and the files raise.
        """
        return await streams.encrypt_stream(
            self,
            source,
            sink,
            key_id=key_id,
            encryption_context=encryption_context,
            suite=suite,
            frame_bytes=frame_bytes,
            progress=progress,
            surroundings=self._surroundings,
        )

    async def decrypt_stream(
        self,
        source: Source | AsyncSource,
        sink: Sink | AsyncSink,
        *,
        key_id: str | None = None,
        encryption_context: Mapping[str, str] | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX_DEFAULT,
        progress: Progress | None = None,
    ) -> EnvelopeResult:
        """Decrypts a message of `encrypt_stream` or of AWS's SDKs. If it raises, discard what was written.

        Only authenticated text is written, but the signature comes last. With `key_id` only a data key under that key
        is used; the pairs of `encryption_context` must all be in the message's. Frames longer than `frame_bytes_max`
        are refused: one is held in memory. Raises `EnvelopeError`, and what `decrypt` and the files raise.
        """
        return await streams.decrypt_stream(
            self,
            source,
            sink,
            key_id=key_id,
            encryption_context=encryption_context,
            frame_bytes_max=frame_bytes_max,
            progress=progress,
        )

    async def encrypt_text(
        self,
        plaintext: bytes,
        *,
        key_id: str,
        encryption_context: Mapping[str, str] | None = None,
        suite: Suite = Suite.SIGNED,
    ) -> str:
        """A message as Base64 text, the encrypted data key and the data together: for a field or a variable."""
        return await streams.encrypt_text(
            self,
            plaintext,
            key_id=key_id,
            encryption_context=encryption_context,
            suite=suite,
            surroundings=self._surroundings,
        )

    async def decrypt_text(
        self, text: str, *, key_id: str | None = None, encryption_context: Mapping[str, str] | None = None
    ) -> bytes:
        """The plaintext of what `encrypt_text` made. Arguments and errors as with `decrypt_stream`."""
        return await streams.decrypt_text(self, text, key_id=key_id, encryption_context=encryption_context)
