"""How a cut falls: by names of nodes and clients alone, the same for simulated links and for real ones."""

import random
from collections.abc import Iterable, Sequence


def draw_sides(everybody: Sequence[str], victim: str | None, rng: random.Random) -> tuple[list[str], list[str]]:
    """`victim` and some companions, and all others: somebody is left on the other side. Both empty where nobody can be
    hit, or nobody would be left."""
    if victim is None or len(everybody) < 2:
        return [], []
    others = [name for name in everybody if name != victim]
    companions = set(rng.sample(others, rng.randint(0, len(others) - 1)))
    return [victim, *(name for name in others if name in companions)], [n for n in others if n not in companions]


def links_between(sources: Iterable[str], targets: Iterable[str]) -> list[tuple[str, str]]:
    """From each source to each target, sources in their order."""
    all_targets = list(targets)
    return [(source, target) for source in sources for target in all_targets if source != target]
