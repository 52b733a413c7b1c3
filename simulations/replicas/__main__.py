"""Many random runs: `python -m keycluster.simulations.replicas --seeds 1000 [--first 0] [--seconds 600]`.

Stops early after `--seconds`. Ends with 1 if any run failed; each failure is a line with its seed, which repeats it.
"""

import argparse
import sys
import time
from collections import Counter

from keycluster.simulations.replicas.chaos import Options, run_seed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="keycluster.simulations.replicas", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=86_400)
    parser.add_argument("--drift-ppm", type=int, default=1_000)
    chosen = parser.parse_args(arguments)
    options = Options(drift_ppm=chosen.drift_ppm)
    begun, totals, faults, failed = time.monotonic(), Counter[str](), Counter[str](), 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        if time.monotonic() - begun > chosen.seconds:
            break
        try:
            report = run_seed(seed, options)
        except Exception as error:  # noqa: BLE001  # Whatever it is, it is this seed's finding.
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            continue
        totals.update(
            steps=report.steps, served=report.serving_seen, settled=report.settled, leaders=report.leaders, runs=1
        )
        faults.update(report.faults)
    totals["seconds"] = int(time.monotonic() - begun)
    print(f"{failed} failed; {dict(totals)}; faults {dict(sorted(faults.items()))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
