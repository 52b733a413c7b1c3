"""`keycluster bench`: how fast this machine's Keycluster is, against yardsticks in the same run."""

import argparse
import sys

from keycluster.cli.output import Output


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    help_text = "measure this machine: nodes and client against bare servers, side by side"
    parser = commands.add_parser("bench", help=help_text, description=help_text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison (default: 3)")
    parser.add_argument("--keys", type=int, default=10_000, help="how many are many (default: 10,000)")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace, output: Output) -> None:
    from keycluster.simulations.load.bench import BenchOptions, run_bench

    def tell(text: str) -> None:
        print(f"… {text}", file=sys.stderr, flush=True)

    result = run_bench(BenchOptions(options.seconds, options.rounds, options.keys), tell)
    rows = [
        [
            row["what"],
            "-" if row["yardstick_per_s"] is None else f"{row['yardstick_per_s']:,.0f}",
            f"{row['measured_per_s']:,.0f}",
            "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
            "-" if row["aim"] is None else f"≥ {row['aim']}",
        ]
        for row in result["rows"]
    ]
    output.table(["WHAT", "YARDSTICK/S", "MEASURED/S", "RATIO", "AIM"], rows, value=result)
    if output.json:
        return
    many = result["many_keys"]
    print()
    output.table(
        ["KEYS", "MEMORY, MiB", "RESTART, s", "DESCRIBE/S", "ENCRYPT/S"],
        [
            [
                f"{m['keys']:,}",
                str(m["resident_mib"]),
                str(m["restart_s"]),
                str(m["describe_per_s"]),
                str(m["encrypt_per_s"]),
            ]
            for m in (many["few"], many["many"])
        ],
        value=many,
    )
