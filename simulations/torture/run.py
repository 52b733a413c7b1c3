"""One run on real processes: a region and its clients, from a spec to a report.

making             `dev` makes the region, or starts the one that is there
faults and work    for as long as the spec says, on real clocks
liveness, peace    as in the simulators
checks             what clients saw, what nodes said at their ends, what is in their files
"""

import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from keycluster.client.key_client import KeyClient
from keycluster.cluster.types import SECOND
from keycluster.node.operations.table import OPERATIONS, Plane
from keycluster.simulations.checkers.check import check_all
from keycluster.simulations.checkers.history import History
from keycluster.simulations.checkers.secrets import HALF_BYTES, SecretSearch
from keycluster.simulations.faults import Fault, FaultKind, draw_schedule
from keycluster.simulations.runs import Failure, RunSpec, SeedReport
from keycluster.simulations.torture.clients import OPENING_SECONDS, TortureClient
from keycluster.simulations.torture.finish import demand_liveness, make_peace
from keycluster.simulations.torture.folder import locked
from keycluster.simulations.torture.nemesis import STRIKES, Nemesis
from keycluster.simulations.torture.region import TortureRegion, make_region
from keycluster.simulations.torture.watch import Watch
from keycluster.simulations.trace import Trace, What
from keycluster.simulations.workload.doors import CHANGES
from keycluster.simulations.workload.plan import draw_plan
from keycluster.simulations.workload.turns import Caller, Record
from keycluster.simulations.workload.workload import Workload

SUPPORTED: Final[tuple[FaultKind, ...]] = tuple(kind for kind in FaultKind if kind in STRIKES)

GAP_SCALE: Final = 4.0  # A process that was killed takes a second or two to be back.
EPOCH_NS: Final = 20 * SECOND  # Then other faults come.
REDRAWS_MAX: Final = 200  # A rare kind alone, in a run of some seconds.
BEGIN_S_MAX: Final = 60.0
PROOF_S: Final = 20.0
BLOBS_MAX: Final = 200  # Of the ciphertexts of a run, opened again at its end.
EMPTY: Final = "empty-run"  # A finding about the run, not about the region.
USES: Final = frozenset(name for name, operation in OPERATIONS.items() if operation.plane is Plane.DATA) - {
    "GenerateRandom"
}
STEPS_MAX: Final = 1_000_000  # Of the search for an order, for each key: some seconds, of which a run has many.
WORKLOAD_ALIASES: Final = "alias/sim-"
HISTORY: Final = "history.jsonl"
VISITOR: Final = "visitor"
CLIENTS_DEFAULT: Final = 6
RATE_DEFAULT: Final = 40.0

Progress = Callable[[str, float, Nemesis | None, History], None]
"""Called twice a second: what goes on, since when in seconds, the faults and the calls so far."""


@dataclass(slots=True)
class Torture:
    """What a run leaves."""

    report: SeedReport
    history: History = field(default_factory=History)
    trace: Trace = field(default_factory=lambda: Trace(keep=True))
    known_keys: Collection[str] = ()
    """Those that the region had before."""


def run_in(folder: Path, torture: Torture, *, progress: Progress | None = None) -> None:
    """In a folder of `dev`, new or not, which also gets the history. What is found is in the report; also when it is
    interrupted. Blocking.

    Raises `RegionUnfit`; then nothing of a region that is there was touched.
    """
    began = time.perf_counter()
    content = make_region(folder, nodes=torture.report.spec.nodes)
    try:
        with locked(folder):  # No `dev` may start what we have in our hands.
            _run_in(folder, content, torture, progress)
    finally:
        torture.report.wall_s = time.perf_counter() - began


def _run_in(folder: Path, content: dict[str, Any], torture: Torture, progress: Progress | None) -> None:
    report = torture.report
    try:
        trio.run(_Run(folder, content, torture, progress).run)
    except Exception as error:  # noqa: BLE001  # A fault of ours; what was seen until then is worth keeping.
        report.failures.append(Failure("torture", "".join(traceback.format_exception(error))))
    except BaseExceptionGroup as group:  # A nursery wraps Ctrl-C.
        if group.split(KeyboardInterrupt)[1] is None:
            raise KeyboardInterrupt from None
        raise
    finally:
        with (folder / HISTORY).open("w") as file:  # Before it is judged: that may take a minute.
            file.writelines(f"{line}\n" for line in torture.history.to_json_lines())
        report.failures += judge(torture.history, known_keys=torture.known_keys)
        _note_offences(torture)
        report.operations.update(f"{call.operation} {call.kind.value}" for call in torture.history.calls)
        report.trace_sha256 = torture.trace.sha256()


def draw_faults(spec: RunSpec) -> tuple[Fault, ...]:
    """The whole schedule. A seed of `draw_schedule` leaves half of the kinds out, so a long run takes many of them.

    In a short run all faults drawn may come too late: then others are drawn.
    """
    drawn = (_draw_faults(spec, salt) for salt in ("", *(f"/{number}" for number in range(REDRAWS_MAX))))
    return next(filter(None, drawn), ())


def _draw_faults(spec: RunSpec, salt: str) -> tuple[Fault, ...]:
    kinds = SUPPORTED if spec.kinds is None else spec.kinds
    faults: list[Fault] = []
    for begins in range(0, spec.time_ns, EPOCH_NS):
        rng = random.Random(f"torture/{spec.seed}/{begins}{salt}")
        time_ns = min(EPOCH_NS, spec.time_ns - begins)
        drawn = draw_schedule(rng.getrandbits(48), time_ns=time_ns, kinds=kinds, gap_scale=GAP_SCALE)
        faults += [replace(fault, number=len(faults) + fault.number, at_ns=begins + fault.at_ns) for fault in drawn]
    return tuple(faults)


def judge(history: History, *, known_keys: Collection[str] = ()) -> list[Failure]:
    """By what clients saw. A checker that fails is a finding too: the history must not be lost by it."""
    try:
        return check_all(history, known_keys=known_keys, steps_max=STEPS_MAX)
    except Exception as error:  # noqa: BLE001
        return [Failure("checkers", "".join(traceback.format_exception(error)))]


def demand_something_shown(history: History, faults: Counter[str], *, is_asked_for_faults: bool) -> Iterable[Failure]:
    """A run in which nothing succeeds, or nothing goes wrong, hasn't shown anything, and must not look as if it had."""
    succeeded = {call.operation for call in history.calls if call.is_ok}
    if not succeeded & CHANGES:
        yield Failure(EMPTY, "no change succeeded in the whole run")
    if not succeeded & USES:
        yield Failure(EMPTY, "no use of a key succeeded in the whole run")
    if is_asked_for_faults and not faults:
        yield Failure(EMPTY, "no fault had an effect: the run takes more time, or other kinds")


def _note_offences(torture: Torture) -> None:
    for failure in torture.report.failures:
        at_ns = torture.report.simulated_ns if failure.at_ns is None else failure.at_ns
        torture.trace.note(at_ns, "checks", What.OFFENCE, failure.checker, failure.message)


class _Run:
    def __init__(self, folder: Path, content: dict[str, Any], torture: Torture, progress: Progress | None) -> None:
        self._folder = folder
        self._content = content
        self._torture = torture
        self._report = torture.report
        self._history = torture.history
        self._progress = progress
        self._doing = "starting"

    async def run(self) -> None:
        spec, report = self._report.spec, self._report
        region = TortureRegion(self._folder, self._content, seed=spec.seed, trace=self._torture.trace)
        drawn = draw_plan(
            spec.seed,
            clients=CLIENTS_DEFAULT if spec.clients is None else spec.clients,
            rate_per_s=RATE_DEFAULT if spec.operations_per_s is None else spec.operations_per_s,
        )
        faults = draw_faults(spec) if spec.faults is None else spec.faults
        report.drawn = replace(
            spec, nodes=len(region.nodes), clients=drawn.clients, operations_per_s=drawn.rate_per_s, faults=faults
        )
        # Request ids are drawn too: a region that remembers those of an earlier run would repeat its answers.
        workload = Workload(
            drawn,
            Record(self._history, lambda: region.now_ns, self._torture.trace),
            seed=f"torture/{spec.seed}/{time.time_ns()}",
        )
        try:
            async with region.open() as nursery:
                await self._run_in(region, workload, faults, nursery)
        finally:
            report.simulated_ns = region.now_ns
            report.failures += region.failures + workload.shared.failures

    async def _run_in(
        self, region: TortureRegion, workload: Workload, faults: Sequence[Fault], nursery: trio.Nursery
    ) -> None:
        spec, plan = self._report.spec, workload.shared.plan
        watch = Watch(region)
        nursery.start_soon(watch.run)
        await self._begin(region, watch)
        clients = [
            await self._client(region, f"c{number}", nursery, aws=number < plan.aws_clients)
            for number in range(plan.clients)
        ]
        visitor = await self._client(region, VISITOR, nursery, aws=False)
        nemesis = Nemesis(region, watch, clients=[client.name for client in clients])
        nursery.start_soon(self._tell, region, nemesis)
        region.begin()
        async with trio.open_nursery() as working:
            for client in clients:
                working.start_soon(client.work, workload)
            self._doing = "faults"
            try:
                await nemesis.run(faults, time_ns=spec.time_ns)
            finally:  # Also of a run that is interrupted.
                self._report.faults.update(nemesis.counts)
            self._doing = "liveness"
            prove = partial(_prove, visitor, workload)
            rng = random.Random(f"finish/{spec.seed}")
            await demand_liveness(region, watch, rng, clients=[*nemesis.clients, VISITOR], prove=prove)
            await make_peace(region, watch, prove=prove)
            workload.stop()
        self._doing = "last look"
        await visitor.live(partial(workload.last_look, nodes=sorted(region.nodes), blobs_max=BLOBS_MAX))
        await self._end(region)
        is_asked_for_faults = spec.faults != () and spec.kinds != ()
        self._report.failures += demand_something_shown(
            self._history, self._report.faults, is_asked_for_faults=is_asked_for_faults
        )

    async def _begin(self, region: TortureRegion, watch: Watch) -> None:
        with trio.move_on_after(BEGIN_S_MAX) as beginning:
            await watch.until(lambda: all(watch.serves(name) for name in region.nodes))
        if beginning.cancelled_caught:
            region.found("liveness", f"the region didn't come up at all: {watch.describe()}")
            return
        async with region.operator(timeout=OPENING_SECONDS) as operator:
            self._torture.known_keys = await _tidy_up(operator)

    async def _client(self, region: TortureRegion, name: str, nursery: trio.Nursery, *, aws: bool) -> TortureClient:
        ports = await region.private_ports(name, nursery)
        return TortureClient(name, region, ports, seed=f"{self._report.spec.seed}", aws=aws)

    async def _tell(self, region: TortureRegion, nemesis: Nemesis) -> None:
        while self._progress is not None:
            self._progress(self._doing, region.now_ns / SECOND, nemesis, self._history)
            await trio.sleep(0.5)

    async def _end(self, region: TortureRegion) -> None:
        """All stop in order; then their files are looked at."""
        self._doing = "ending"
        for node in region.nodes.values():
            wrong = await node.stop()
            if wrong is not None:
                region.found("node-ended", f"told to stop, {node.name} {wrong}")
        search = SecretSearch(_secrets(region, self._history))
        for path in sorted((self._folder / region.name).rglob("*")):
            if path.is_file():
                search.look_in(str(path.relative_to(self._folder)), path.read_bytes())
        region.failures += [found.failure() for found in search.found]


async def _prove(visitor: TortureClient, workload: Workload) -> bool:
    proved: list[bool] = []

    async def prove(caller: Caller) -> None:
        proved.append(await workload.prove_alive(caller, seconds=PROOF_S))

    await visitor.live(prove)
    return proved == [True]


async def _tidy_up(operator: KeyClient) -> list[str]:
    """The keys that were there before. Aliases that an earlier run left are deleted: the history begins without."""
    keys: list[str] = []
    marker = None
    while True:
        page = await operator.list_keys(limit=1_000, marker=marker)
        keys += [entry.key_id for entry in page.keys]
        marker = page.next_marker
        if not page.truncated:
            break
    aliases = await operator.list_aliases(limit=100)
    for alias in aliases.aliases:
        if alias.alias_name.startswith(WORKLOAD_ALIASES):
            await operator.delete_alias(alias_name=alias.alias_name)
    return keys


def _secrets(region: TortureRegion, history: History) -> dict[str, bytes]:
    """What clients know and no node may write down: data keys, and the operator's secret."""
    found = {"the operator's secret access key": region.credentials.secret_access_key.encode()}
    for call in history.calls:
        if call.operation == "GenerateDataKey" and call.is_ok and len(call.value["Plaintext"]) >= HALF_BYTES:
            found[f"the data key of call #{call.number}"] = call.value["Plaintext"]
    return found
