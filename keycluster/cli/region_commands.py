"""`keycluster node`, `init`, `join`, `dev` and `status`: regions and the nodes they are made of."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keycluster.cli.output import CommandFailed, Output

if TYPE_CHECKING:
    from keycluster.cluster.seams import World
    from keycluster.node.config import NodeConfig
    from keycluster.node.hardening import Hardening

DEFAULT_ACCOUNT = "123456789012"
STANDARD_INPUT = 0
TOKEN_BYTES_MAX = 4096

DEV_DESCRIPTION = (
    "Starts one or more regions of real node processes on this machine and runs until stopped, or until no node lives. "
    "The same folder starts again with its keys, ports and credentials. DIR/endpoints.json is there while all nodes "
    "answer. With --nodes 1 everything is in one process."
)
NODE_DESCRIPTION = (
    "Runs a node that `init` or `join` made, until SIGINT or SIGTERM: a leader hands over first. A passphrase, if that "
    "is its seal, is read from the terminal or from the first line of standard input."
)
INIT_DESCRIPTION = (
    "Makes the first node of a new region in its data folder, with the region's keys and authorities, and writes an "
    "endpoints file with the first access key. What was cut off goes on when it is called again."
)
JOIN_DESCRIPTION = (
    "Lets a region admit this node, by a token from `keycluster token`, and makes it in its data folder. What was cut "
    "off goes on when it is called again."
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds these commands to the command line."""
    _add_dev(commands)
    for name, help_text, description, run in (
        ("node", "run one node of a region", NODE_DESCRIPTION, _node),
        ("init", "make the first node of a new region", INIT_DESCRIPTION, _init),
        ("join", "make a further node of a region", JOIN_DESCRIPTION, _join),
    ):
        parser = commands.add_parser(name, help=help_text, description=description)
        parser.add_argument(
            "--config", type=Path, required=True, metavar="FILE", help="the node's configuration (TOML)"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=run)
        if name == "node":
            parser.add_argument(
                "--log-level",
                default="info",
                choices=["debug", "info", "warning", "error"],
                help="what is logged on stderr (default: info)",
            )
            parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # dev's: end when that process ends.
        if name == "init":
            parser.add_argument(
                "--account",
                default=DEFAULT_ACCOUNT,
                metavar="DIGITS",
                help=f"whose root the first access key is, twelve digits (default: {DEFAULT_ACCOUNT})",
            )
            parser.add_argument(
                "--endpoints",
                type=Path,
                required=True,
                metavar="FILE",
                help="where to write addresses and the first access key (0600); it is shown nowhere else",
            )
        if name == "join":
            parser.add_argument(
                "--token-file",
                type=Path,
                metavar="FILE",
                help="where the join token stands (default: the first line of standard input)",
            )


def _add_dev(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    dev = commands.add_parser(
        "dev", help="a region on this machine, for trying things out", description=DEV_DESCRIPTION
    )
    dev.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the folder for everything")
    dev.add_argument("--nodes", type=int, metavar="N", help="nodes a region, 1 to 9 (default: 3, or as before)")
    dev.add_argument("--learners", type=int, default=0, metavar="N", help="how many new ones are learners (default: 0)")
    dev.add_argument("--regions", metavar="NAME[,NAME]", help="(default: us-east-1, or as before)")
    dev.add_argument(
        "--port-base",
        type=int,
        metavar="PORT",
        help="the first port for new nodes, three each (default: free ones); a node keeps the ports it has",
    )
    dev.add_argument("--account", metavar="DIGITS", help=f"twelve digits (default: {DEFAULT_ACCOUNT})")
    dev.add_argument("--access-key-id", metavar="ID", help="(default: a generated one)")
    dev.add_argument("--secret-access-key", metavar="SECRET", help="(default: a generated one)")
    dev.add_argument("--json", action="store_true", help="print JSON")
    dev.set_defaults(run=_dev)


def _harden() -> "Hardening":
    from keycluster.node.hardening import HardeningRefused, harden  # Before anything secret: first of all imports.

    try:
        return harden()
    except HardeningRefused as refused:
        raise CommandFailed(str(refused)) from None


def _config_and_world(options: argparse.Namespace) -> "tuple[NodeConfig, World]":
    from keycluster.node.config import ConfigError, load_config
    from keycluster.node.world import real_world

    try:
        return load_config(options.config), real_world()
    except ConfigError as error:
        raise CommandFailed(str(error)) from None


def _node(options: argparse.Namespace, output: Output) -> None:
    hardening = _harden()
    from keycluster.cli.node_process import run_node_process, set_up_logging
    from keycluster.node.hardening import die_with_parent

    if options.parent is not None:
        # At once, as by a power cut: a node that was paused would otherwise outlive its parent and hold its ports.
        die_with_parent(options.parent, signal_number=signal.SIGKILL)
    set_up_logging(options.log_level)
    config, world = _config_and_world(options)
    run_node_process(config, world=world, hardening=hardening)


def _init(options: argparse.Namespace, output: Output) -> None:
    _harden()
    from keycluster.cli.founding import init_region

    config, world = _config_and_world(options)
    init_region(config, account=options.account, endpoints=options.endpoints, world=world)
    output.result(
        {"Region": config.region, "Node": config.node, "Endpoints": str(options.endpoints)},
        lines=[
            f"region {config.region} is founded; its first node is {config.node}",
            f"addresses and the operator's access key: {options.endpoints} (keep it safe: it is shown nowhere else)",
            f"start the node: keycluster node --config {options.config}",
        ],
    )


def _join(options: argparse.Namespace, output: Output) -> None:
    _harden()
    import trio

    from keycluster.node.join_token import JoinTokenMalformed, parse_join_token
    from keycluster.node.joining import JoinFailed, join_region
    from keycluster.node.making import FolderTaken
    from keycluster.node.sealing import SealError

    config, world = _config_and_world(options)
    try:
        token = parse_join_token(_read_token(options.token_file))

        async def join() -> None:
            await join_region(config, token, world=world)

        trio.run(join)
    except (JoinTokenMalformed, JoinFailed, FolderTaken, SealError) as error:
        raise CommandFailed(str(error)) from None
    output.result(
        {"Region": config.region, "Node": config.node},
        lines=[
            f"{config.node} is admitted to region {config.region}",
            f"start the node: keycluster node --config {options.config}",
        ],
    )


def _read_token(path: Path | None) -> str:
    """From a file, or the first line of standard input: byte by byte, since a passphrase may stand in the next one."""
    if path is not None:
        with path.open("rb") as file:
            content = file.read(TOKEN_BYTES_MAX)
    else:
        if sys.stdin is not None and sys.stdin.isatty():
            print("join token: ", end="", file=sys.stderr, flush=True)
        content = b""
        while len(content) < TOKEN_BYTES_MAX and not content.endswith(b"\n"):
            byte = os.read(STANDARD_INPUT, 1)
            if not byte:
                break
            content += byte
    return content.decode(errors="replace").strip()


def _dev(options: argparse.Namespace, output: Output) -> None:
    hardening = _harden()
    from keycluster.cli.dev import run_dev

    run_dev(options, output, hardening)
