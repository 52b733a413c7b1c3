"""`keycluster bench`: what a node makes of the machine it runs on, as ratios against yardsticks in the same run.

A *bare server* is the same streams, frames and cryptography with nothing else around: no log-in, lease, look-up, limit
or gate. It and a real node run in processes of their own and take turns under the same light client, so that a noisy
machine is noisy for both. Only ratios within one run mean anything.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import trio

from keycluster import KeyClient
from keycluster.simulations.load import client_yardstick
from keycluster.simulations.load.light import Load, connect, count_frame_replies, count_http_responses, drive
from keycluster.simulations.load.processes import BareServers, Region, bare_servers, region, resident_mib
from keycluster.simulations.load.ready_made import aws_unit, logged_in, native_unit, signing_key, today

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """How a load comes: connections, units under way on each, requests in a unit."""

    name: str
    connections: int
    in_flight: int
    per_unit: int = 1


SHAPES = (Shape("1x64", 1, 64), Shape("64x1", 64, 1), Shape("1x2, 64 a frame", 1, 2, per_unit=64))
FEW_KEYS = 100
AWS_SHAPE = Shape("16x1", 16, 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: medians per second, and the ratio of pairs measured next to each other (its median)."""

    what: str
    yardstick_per_s: float | None
    measured_per_s: float
    ratio: float | None
    aim: float | None


@dataclass(frozen=True, slots=True)
class BenchOptions:
    seconds: float = 2.0
    rounds: int = 3
    keys: int = 10_000


def run_bench(options: BenchOptions, tell: Tell) -> dict[str, Any]:
    """All of it. Returns what --json prints; `tell` hears what is being done."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="keycluster-bench-") as folder, region(Path(folder, "one"), nodes=1) as one:
        rows += _doors(one, options, tell)
        tell("KeyClient")
        rows.append(_client(options))
    with tempfile.TemporaryDirectory(prefix="keycluster-bench-") as folder, region(Path(folder, "r"), nodes=3) as three:
        few = trio.run(_with_keys, three, FEW_KEYS, options, tell)
        tell("CreateKey, three nodes")
        rows += trio.run(_create_keys, three, options)
        many = trio.run(_with_keys, three, options.keys, options, tell)
    return {"rows": [asdict(row) for row in rows], "many_keys": {"few": few, "many": many}}


def _doors(one: Region, options: BenchOptions, tell: Tell) -> Iterator[Row]:
    endpoints, node = one.endpoints(), one.first_node()
    access_key_id, secret = endpoints["access_key_id"], endpoints["secret_access_key"]
    key_id = trio.run(_new_key, one)
    with bare_servers(signing_key=signing_key(secret, today())) as bare:
        for operation in ("Encrypt", "GenerateDataKey"):
            for shape in SHAPES:
                tell(f"{operation}, native door, {shape.name}")
                load = _load(shape, native_unit(operation, key_id, requests=shape.per_unit), options)
                yield _compare(
                    f"{operation}, native door, {shape.name}",
                    lambda load=load: drive(load, [connect(bare.native, tls=True) for _ in range(load.connections)]),  # type: ignore[misc]
                    lambda load=load: drive(  # type: ignore[misc]
                        load, [logged_in(node["native"], access_key_id, secret) for _ in range(load.connections)]
                    ),
                    options,
                    aim=0.6 if shape.per_unit == 1 else None,
                )
        tell("Encrypt, AWS door")
        yield _aws(bare, one, key_id, options)


def _aws(bare: BareServers, one: Region, key_id: str, options: BenchOptions) -> Row:
    endpoints = one.endpoints()
    address = str(one.first_node()["aws"]).removeprefix("http://")

    def drive_at(target: str) -> float:
        unit = aws_unit(target, key_id, endpoints["access_key_id"], endpoints["secret_access_key"])
        load = _load(AWS_SHAPE, unit, options, http=True)
        return drive(load, [connect(target, tls=False) for _ in range(load.connections)])

    return _compare(
        f"Encrypt, AWS door, {AWS_SHAPE.name}",
        lambda: drive_at(bare.aws),
        lambda: drive_at(address),
        options,
        aim=0.5,
    )


def _load(shape: Shape, unit: bytes, options: BenchOptions, *, http: bool = False) -> Load:
    return Load(
        unit=unit,
        count=count_http_responses if http else count_frame_replies,
        requests_per_unit=shape.per_unit,
        connections=shape.connections,
        in_flight=shape.in_flight,
        seconds=options.seconds,
    )


def _compare(
    what: str,
    yardstick: Callable[[], float],
    measured: Callable[[], float],
    options: BenchOptions,
    *,
    aim: float | None,
) -> Row:
    pairs = [(yardstick(), measured()) for _ in range(options.rounds)]
    return Row(
        what,
        statistics.median(first for first, _ in pairs),
        statistics.median(second for _, second in pairs),
        statistics.median(second / first for first, second in pairs),
        aim,
    )


def _client(options: BenchOptions) -> Row:
    async def measure() -> client_yardstick.Yardstick:
        return await client_yardstick.measure(tasks=64, seconds=options.seconds, rounds=options.rounds)

    result = trio.run(measure)
    return Row(
        "KeyClient, 64 tasks, on the bare server",
        statistics.median(result.plain_client),
        statistics.median(result.key_client),
        result.ratio,
        0.6,
    )


async def _new_key(one: Region) -> str:
    async with KeyClient.from_endpoints(one.endpoints_file) as client:
        return (await client.create_key()).key_metadata.key_id


async def _create_keys(three: Region, options: BenchOptions) -> list[Row]:
    rows = []
    async with KeyClient.from_endpoints(three.endpoints_file) as client:
        for tasks in (1, 64):
            rate = await _rate(client.create_key, tasks, options.seconds * 2)
            rows.append(Row(f"CreateKey, three nodes, {tasks} at once", None, rate, None, None))
    return rows


async def _rate(call: Callable[[], Any], tasks: int, seconds: float) -> float:
    count = 0

    async def again_and_again() -> None:
        nonlocal count
        while True:
            await call()
            count += 1

    began = trio.current_time()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(again_and_again)
    return count / (trio.current_time() - began)


async def _with_keys(three: Region, wanted: int, options: BenchOptions, tell: Tell) -> dict[str, Any]:
    """Memory, restart and rates with so many keys."""
    async with KeyClient.from_endpoints(three.endpoints_file) as client:
        keys = await _grow_to(client, wanted, tell)
    tell(f"restart with {len(keys):,} keys")
    await trio.to_thread.run_sync(three.stop)
    restart_s = await trio.to_thread.run_sync(three.start)
    async with KeyClient.from_endpoints(three.endpoints_file) as client:
        chosen = cycle(keys)
        describe = await _rate(lambda: client.describe_key(key_id=next(chosen)), 64, options.seconds)
        encrypt = await _rate(lambda: client.encrypt(key_id=next(chosen), plaintext=b"x" * 1024), 64, options.seconds)
    return {
        "keys": len(keys),
        "resident_mib": round(resident_mib(three.first_node()["pid"]), 1),
        "restart_s": round(restart_s, 2),
        "describe_per_s": round(describe),
        "encrypt_per_s": round(encrypt),
    }


async def _grow_to(client: KeyClient, wanted: int, tell: Tell) -> list[str]:
    keys = await _list(client)
    tell(f"{max(0, wanted - len(keys)):,} more keys")
    missing = iter(range(wanted - len(keys)))

    async def create() -> None:
        for _ in missing:
            await client.create_key(timeout=60)

    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(create)
    return await _list(client)


async def _list(client: KeyClient) -> list[str]:
    keys: list[str] = []
    marker = None
    while True:
        page = await client.list_keys(limit=1000, marker=marker)
        keys += [str(entry.key_id) for entry in page.keys]
        if not page.truncated:
            return keys
        marker = page.next_marker
