"""How a command reaches a region: an endpoints file, named on the command line or in the environment."""

import argparse
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from keycluster import KeyClient
from keycluster.cli.output import CommandFailed
from keycluster.client.errors import KeyClientError
from keycluster.cluster.wire.errors import KmsError

T = TypeVar("T")

ENDPOINTS_VARIABLE = "KEYCLUSTER_ENDPOINTS"
DEFAULT_TIMEOUT_S = 30.0


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command on a region takes."""
    group = parser.add_argument_group("region")
    group.add_argument("--dir", type=Path, metavar="DIR", help="the folder of a `keycluster dev` region")
    group.add_argument(
        "--endpoints",
        type=Path,
        metavar="FILE",
        help=f"an endpoints file (default: ${ENDPOINTS_VARIABLE})",
    )
    group.add_argument("--region", help="which region of the file (default: its first)")
    group.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="SECONDS", help="default: 30")


def endpoints_file(options: argparse.Namespace) -> Path:
    """The endpoints file that the options or the environment name. Raises CommandFailed."""
    path: Path | None = options.endpoints
    if path is None and options.dir is not None:
        path = options.dir / "endpoints.json"
    if path is None and os.environ.get(ENDPOINTS_VARIABLE):
        path = Path(os.environ[ENDPOINTS_VARIABLE])
    if path is None:
        raise CommandFailed("which region?", hint=f"give --dir DIR or --endpoints FILE, or set {ENDPOINTS_VARIABLE}")
    if not path.exists():
        raise CommandFailed(
            f"{path} does not exist", hint="is the region running? `keycluster dev --dir DIR` starts one"
        )
    return path


def with_client(options: argparse.Namespace, act: Callable[[KeyClient], Awaitable[T]]) -> T:
    """Runs `act` with a connected client. The service's refusals become CommandFailed."""

    async def run() -> T | CommandFailed:
        async with KeyClient.from_endpoints(endpoints_file(options), region=options.region) as client:
            # Caught in here: outside, a nursery has put it into a group.
            try:
                return await act(client)
            except KmsError as refusal:
                return CommandFailed(refusal.message or "refused", code=refusal.code)
            except (KeyClientError, OSError) as error:
                return CommandFailed(str(error))

    try:
        result = trio.run(run)
    except (KeyClientError, OSError) as error:
        raise CommandFailed(str(error)) from None
    if isinstance(result, CommandFailed):
        raise result
    return result


def read_json(path: Path) -> object:
    """A JSON file's content. Raises CommandFailed."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{path}: {error}") from None
