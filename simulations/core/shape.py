"""What a run looks like before anything happens: drawn from its seed, unless the spec says it."""

import random
from dataclasses import dataclass, replace

from keycluster.cluster.raft.config import RaftConfig
from keycluster.cluster.types import SECOND, NodeId
from keycluster.simulations.core.network import Network
from keycluster.simulations.faults import Fault, FaultKind, draw_schedule
from keycluster.simulations.runs import RunSpec

VOTERS = (1, 2, 3, 3, 3, 4, 5, 5, 5)
LEARNERS = (0, 0, 1, 2)
AZS = (3, 3, 4, 5)
CLIENTS = (1, 2, 3, 4, 6)
OPERATIONS_PER_S = (5.0, 10.0, 20.0, 20.0, 50.0)
DRIFT_PPM = (1_000, 1_000, 1_000, 90_000)  # Wide, and all members configured so: then nothing else hides it.
TIGHT_CHANCE = 0.3  # That windows and caps are so small that they fill up.
TIGHT = RaftConfig(
    append_bytes_max=200,
    inflight_messages_max=2,
    inflight_bytes_max=400,
    uncommitted_bytes_max=250,
    apply_bytes_max=300,
    tail_bytes_max=500,
    snapshot_chunk_bytes=40_000,
    reads_pending_max=2,
)
WALL_OFFSET_NS_MAX = 1 * SECOND
DELAYS_NS = ((200_000, 800_000), (200_000, 800_000), (2_000_000, 18_000_000))  # Least, and up to so much more.


@dataclass(frozen=True, slots=True)
class Clock:
    ppm: int
    wall_offset_ns: int


@dataclass(frozen=True, slots=True)
class Shape:
    seed: int
    voters: int
    learners: int
    azs: int
    clients: int
    operations_per_s: float
    drift_ppm: int
    is_tight: bool
    delay_ns_min: int
    delay_ns_spread: int
    faults: tuple[Fault, ...]

    def raft(self) -> RaftConfig:
        return replace(TIGHT if self.is_tight else RaftConfig(), drift_ppm=self.drift_ppm)

    def network(self) -> Network:
        return Network(delay_ns_min=self.delay_ns_min, delay_ns_spread=self.delay_ns_spread)

    def az_of(self, node: NodeId) -> str:
        """Spread over them in turn, as an operator does."""
        return f"az{(int(node[1:]) - 1) % self.azs + 1}"

    def clock_of(self, node: NodeId) -> Clock:
        """Its own for each node, whoever else there is."""
        rng = random.Random(f"clock/{self.seed}/{node}")
        bound = self.drift_ppm
        return Clock(
            ppm=rng.choice([-bound, bound, 0, rng.randint(-bound, bound)]),
            wall_offset_ns=rng.randint(-WALL_OFFSET_NS_MAX, WALL_OFFSET_NS_MAX),
        )


def draw_shape(spec: RunSpec, supported: tuple[FaultKind, ...]) -> Shape:
    """What the spec says changes no other draw."""
    rng = random.Random(f"shape/{spec.seed}")
    voters, learners, azs = rng.choice(VOTERS), rng.choice(LEARNERS), rng.choice(AZS)
    clients, operations_per_s = rng.choice(CLIENTS), rng.choice(OPERATIONS_PER_S)
    drift_ppm, (delay_ns_min, delay_ns_spread) = rng.choice(DRIFT_PPM), rng.choice(DELAYS_NS)
    is_tight = rng.random() < TIGHT_CHANCE
    kinds = supported if spec.kinds is None else tuple(kind for kind in spec.kinds if kind in supported)
    nodes = (voters if spec.nodes is None else spec.nodes) + learners
    faults = spec.faults
    if faults is None:
        faults = draw_schedule(spec.seed, time_ns=spec.time_ns, kinds=kinds, nodes=nodes)
    return Shape(
        seed=spec.seed,
        voters=voters if spec.nodes is None else spec.nodes,
        learners=learners,
        azs=azs,
        clients=clients if spec.clients is None else spec.clients,
        operations_per_s=operations_per_s if spec.operations_per_s is None else spec.operations_per_s,
        drift_ppm=drift_ppm,
        is_tight=is_tight,
        delay_ns_min=delay_ns_min,
        delay_ns_spread=delay_ns_spread,
        faults=faults,
    )


def drawn(spec: RunSpec, shape: Shape) -> RunSpec:
    """The same run with nothing left to draw but what the seed alone decides."""
    return replace(
        spec,
        nodes=shape.voters,
        clients=shape.clients,
        operations_per_s=shape.operations_per_s,
        faults=shape.faults,
    )
