"""Picks the command and turns its end into an exit status.

Exit status: 0 done, 1 it failed (the reason in one line on stderr), 2 the command line is wrong. Where 1 is a result of
its own, as in a search for bugs, a command fails by 2 too (`set_defaults(failed=2)`). A user's mistake never shows a
traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from keycluster.cli import (
    admin_commands,
    bench_command,
    data_commands,
    key_commands,
    region_commands,
    simulate_command,
    torture_command,
)
from keycluster.cli.output import CommandFailed, Output

EPILOG = "Each command has its own --help. Every command takes --json for output that machines read."
MODULES = (
    region_commands,
    admin_commands,
    key_commands,
    data_commands,
    bench_command,
    simulate_command,
    torture_command,
)
"""In the order in which --help shows their commands."""
INTERRUPTED = 130  # As shells have it: 128 and the number of SIGINT.


class _Parser(argparse.ArgumentParser):
    """Tells a wrong command line in the form that was asked for."""

    asks_for_json = False

    def error(self, message: str) -> NoReturn:
        Output(json=_Parser.asks_for_json).error(CommandFailed(message, hint=f"see `{self.prog} --help`"))
        raise SystemExit(2)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="keycluster",
        description="A key management service on machines you own. To try it: `keycluster dev --dir DIR`.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"keycluster {version('keycluster')}")
    parser.set_defaults(failed=1)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in MODULES:
        module.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit status; argparse exits by itself with 2 (or 0 for --help)."""
    words = sys.argv[1:] if arguments is None else arguments
    _Parser.asks_for_json = "--json" in words
    options = build_parser().parse_args(words)
    output = Output(json=options.json)
    try:
        status: int | None = options.run(options, output)
        if sys.stdout is not None:
            sys.stdout.flush()
    except CommandFailed as failure:
        output.error(failure)
        return int(options.failed if failure.status is None else failure.status)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:  # A nursery wraps Ctrl-C too.
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        return INTERRUPTED
    except BrokenPipeError:  # Who read our output has gone (`keycluster … | head`): nothing is left to say.
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        output.error(CommandFailed(str(error)))
        return int(options.failed)
    return status or 0


def _discard_output() -> None:
    """What couldn't be written is not tried again at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
