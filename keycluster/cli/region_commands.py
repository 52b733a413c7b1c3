"""`keycluster node`, `init`, `join`, `dev` and `status`: regions and the nodes they are made of."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keycluster.cli.output import CommandFailed, Output

if TYPE_CHECKING:
    from keycluster.cluster.seams import World
    from keycluster.node.config import NodeConfig
    from keycluster.node.hardening import Hardening

DEFAULT_ACCOUNT = "123456789012"


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds these commands to the command line."""
    dev = commands.add_parser(
        "dev",
        help="a region on this machine, for trying things out",
        description="Starts one or more regions of real node processes on this machine and runs until stopped. "
        "The same folder starts again with its keys.",
    )
    dev.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the folder for everything")
    dev.add_argument("--nodes", type=int, metavar="N", help="nodes a region, 1 to 9 (default: 3, or as before)")
    dev.add_argument("--learners", type=int, default=0, metavar="N", help="how many of them are learners (default: 0)")
    dev.add_argument("--regions", metavar="NAME[,NAME]", help="(default: us-east-1, or as before)")
    dev.add_argument("--port-base", type=int, metavar="PORT", help="first of the ports (default: free ones)")
    dev.add_argument("--account", metavar="DIGITS", help=f"twelve digits (default: {DEFAULT_ACCOUNT})")
    dev.add_argument("--access-key-id", metavar="ID", help="(default: a generated one)")
    dev.add_argument("--secret-access-key", metavar="SECRET", help="(default: a generated one)")
    dev.add_argument("--json", action="store_true", help="print JSON")
    dev.set_defaults(run=_dev)
    for name, help_text, run in (
        ("node", "run one node of a region", _node),
        ("init", "make the first node of a new region", _init),
        ("join", "make a further node of a region", _join),
    ):
        parser = commands.add_parser(name, help=help_text, description=help_text)
        parser.add_argument(
            "--config", type=Path, required=True, metavar="FILE", help="the node's configuration (TOML)"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=run)
        if name == "node":
            parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
            parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # dev's: end when that process ends.
        if name == "init":
            parser.add_argument("--account", default=DEFAULT_ACCOUNT, metavar="DIGITS", help="twelve digits")
            parser.add_argument(
                "--endpoints", type=Path, required=True, metavar="FILE",
                help="where to write addresses and the first access key (0600); it is shown nowhere else",
            )  # fmt: skip
        if name == "join":
            parser.add_argument(
                "--token-file", type=Path, metavar="FILE", help="where the join token stands (default: standard input)"
            )


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
        die_with_parent(options.parent)
    set_up_logging(options.log_level)
    config, world = _config_and_world(options)
    run_node_process(config, world=world, hardening=hardening)


def _init(options: argparse.Namespace, output: Output) -> None:
    _harden()
    from keycluster.cli.endpoints import EndpointNode, Endpoints, write_endpoints
    from keycluster.cluster.types import AccountId
    from keycluster.node.access_keys import AccessKeyUnfit
    from keycluster.node.founding import found_region
    from keycluster.node.making import FolderTaken
    from keycluster.node.pki import to_pem
    from keycluster.node.sealing import SealError

    config, world = _config_and_world(options)
    if options.endpoints.exists():
        raise CommandFailed(f"{options.endpoints} exists", hint="it may hold another region's access key: move it")
    try:
        founded = found_region(config, account=AccountId(options.account), access_key=None, world=world)
    except (FolderTaken, SealError, AccessKeyUnfit, OSError) as error:
        raise CommandFailed(str(error)) from None
    ca_file = options.endpoints.with_suffix(".ca.pem").absolute()
    ca_file.write_text(to_pem(founded.client_ca))
    node = EndpointNode.of(config, pid=None)
    write_endpoints(
        options.endpoints,
        Endpoints(
            regions={config.region: [node]},
            account=options.account,
            access_key_id=founded.access_key.access_key_id,
            secret_access_key=founded.access_key.secret,
            ca_file=str(ca_file),
        ),
    )
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
        text = options.token_file.read_text() if options.token_file else sys.stdin.readline()
        token = parse_join_token(text.strip())

        async def join() -> None:
            await join_region(config, token, world=world)

        trio.run(join)
    except (JoinTokenMalformed, JoinFailed, FolderTaken, SealError, OSError) as error:
        raise CommandFailed(str(error)) from None
    output.result(
        {"Region": config.region, "Node": config.node},
        lines=[
            f"{config.node} is admitted to region {config.region}",
            f"start the node: keycluster node --config {options.config}",
        ],
    )


def _dev(options: argparse.Namespace, output: Output) -> None:
    hardening = _harden()
    from keycluster.cli.dev import run_dev

    run_dev(options, output, hardening)
