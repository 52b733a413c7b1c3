"""Picks the command and turns its end into an exit status.

Exit status: 0 done, 1 it failed (the reason in one line on stderr), 2 the command line is wrong. A user's mistake never
shows a traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from keycluster.cli import admin_commands, bench_command, data_commands, key_commands, region_commands
from keycluster.cli.output import CommandFailed, Output

EPILOG = "Each command has its own --help. Every command takes --json for output that machines read."


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="keycluster", description="A key management service on machines you own.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"keycluster {version('keycluster')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (region_commands, admin_commands, key_commands, data_commands, bench_command):
        module.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit status; argparse exits by itself with 2 (or 0 for --help)."""
    options = build_parser().parse_args(arguments)
    output = Output(json=options.json)
    try:
        options.run(options, output)
    except CommandFailed as failure:
        output.error(failure)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Who read our output has gone (`keycluster … | head`): nothing is left to say, nor for Python to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
