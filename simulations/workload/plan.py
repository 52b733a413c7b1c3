"""What one seed's clients do, and how often: drawn so that each seed leaves some out and overdoes others.

Swarm testing (Groce et al., ISSTA 2012): a bug that needs a full queue of one kind of call is never met by a mix that
has a little of everything, always.
"""

import random
from dataclasses import dataclass
from typing import Final

CLIENTS_MIN, CLIENTS_MAX = 3, 12
RATES_PER_S: Final = (5.0, 10.0, 20.0, 20.0, 40.0)
LEFT_OUT_CHANCE: Final = 0.25
STRENGTHS: Final = (0.3, 1.0, 1.0, 3.0)

STEPS: Final[dict[str, float]] = {
    # The data plane: half of all.
    "encrypt": 8.0,
    "generate_data_key": 4.0,
    "generate_data_key_without_plaintext": 1.0,
    "decrypt": 10.0,
    "decrypt_wrongly": 2.0,
    "re_encrypt": 2.0,
    "envelope": 1.0,
    "generate_random": 0.2,
    # Changes.
    "create_key": 1.0,
    "disable_key": 3.0,
    "enable_key": 5.0,
    "schedule_deletion": 0.7,
    "cancel_deletion": 1.5,
    "update_description": 1.5,
    "create_alias": 2.0,
    "update_alias": 2.0,
    "delete_alias": 1.0,
    "tag": 1.5,
    "untag": 1.0,
    "put_policy": 0.7,
    "enable_rotation": 0.8,
    "disable_rotation": 0.5,
    "rotate_on_demand": 1.0,
    # Reads of the control plane.
    "describe": 5.0,
    "list_keys": 0.7,
    "list_aliases": 1.0,
    "list_tags": 1.5,
    "get_policy": 1.0,
    "get_rotation_status": 1.0,
    "list_rotations": 1.0,
    # And more than one call.
    "change_and_look": 6.0,
    "repeat": 2.0,
    "twins": 1.0,
    "misuse_id": 0.5,
    "access_key": 0.6,
}
"""Every step's usual weight."""

ALWAYS: Final = ("encrypt", "decrypt", "create_key", "enable_key", "describe")
"""What no seed leaves out: without them nothing else has anything to work on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Drawn by `draw_plan`; a test may make its own."""

    clients: int
    aws_clients: int
    """Of them: through the AWS door."""
    rate_per_s: float
    """Calls a second, of all clients together."""
    weights: dict[str, float]
    keys_max: int
    aliases: int
    pin_chance: float
    """That a call is made at one chosen node."""
    context_chance: float
    seconds: tuple[float, ...]
    """How long calls may take; one is drawn for each."""
    in_flight_max: int
    """Steps of one client at a time."""


def draw_plan(seed: int, *, clients: int | None = None, rate_per_s: float | None = None) -> Plan:
    """What is given isn't drawn, and changes nothing else."""
    rng = random.Random(f"workload/{seed}")
    drawn_clients, drawn_rate = rng.randint(CLIENTS_MIN, CLIENTS_MAX), rng.choice(RATES_PER_S)
    aws_share = rng.choice((0.0, 0.2, 0.4))
    weights = {}
    for step, weight in STEPS.items():
        strength, is_left_out = rng.choice(STRENGTHS), rng.random() < LEFT_OUT_CHANCE
        weights[step] = weight * strength if step in ALWAYS or not is_left_out else 0.0
    # Else a run has nothing but keys that can't be used, and then nothing at all to find.
    weights["enable_key"] = max(weights["enable_key"], 1.5 * weights["disable_key"])
    weights["cancel_deletion"] = max(weights["cancel_deletion"], 2.0 * weights["schedule_deletion"])
    if not weights["create_alias"]:
        weights["update_alias"] = weights["delete_alias"] = 0.0
    count = drawn_clients if clients is None else clients
    return Plan(
        clients=count,
        aws_clients=min(round(count * aws_share), count - 1) if count else 0,
        rate_per_s=drawn_rate if rate_per_s is None else rate_per_s,
        weights=weights,
        keys_max=rng.choice((2, 4, 8, 16)),
        aliases=rng.choice((2, 4, 8)),
        pin_chance=rng.choice((0.1, 0.3, 0.6)),
        context_chance=rng.choice((0.2, 0.5)),
        seconds=rng.choice(((3.0,), (1.0, 3.0, 10.0), (0.5, 2.0))),
        in_flight_max=rng.choice((1, 4, 16)),
    )
