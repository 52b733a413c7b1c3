"""How a command reaches a region: an endpoints file, named on the command line or in the environment."""

import argparse
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from keycluster import KeyClient
from keycluster.cli.output import CommandFailed
from keycluster.client.endpoints import FILE_NAME, Endpoints, read_endpoints
from keycluster.client.errors import KeyClientError
from keycluster.cluster.wire.errors import KmsError

T = TypeVar("T")

ENDPOINTS_VARIABLE = "KEYCLUSTER_ENDPOINTS"
DEFAULT_TIMEOUT_S = 30.0
TIMEOUT_S_MAX = 3600.0


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
    group.add_argument("--region", metavar="NAME", help="which region of the file (default: its first)")
    group.add_argument(
        "--timeout",
        type=seconds,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long to try, other nodes included (default: {DEFAULT_TIMEOUT_S:.0f})",
    )


def endpoints_file(options: argparse.Namespace) -> Path:
    """The endpoints file that the options or the environment name. Raises CommandFailed."""
    path: Path | None = options.endpoints
    if path is None and options.dir is not None:
        path = options.dir / FILE_NAME
    if path is None and os.environ.get(ENDPOINTS_VARIABLE):
        path = Path(os.environ[ENDPOINTS_VARIABLE])
    if path is None:
        raise CommandFailed("which region?", hint=f"give --dir DIR or --endpoints FILE, or set {ENDPOINTS_VARIABLE}")
    return path


def read_region(path: Path, region: str | None) -> Endpoints:
    """One region of an endpoints file. Raises CommandFailed."""
    try:
        return read_endpoints(path, region)
    except FileNotFoundError as error:
        raise CommandFailed(
            f"{error.filename} does not exist", hint="is the region running? `keycluster dev --dir DIR` starts one"
        ) from None
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise CommandFailed(str(error)) from None


def region_names(path: Path) -> list[str]:
    """Of all regions in an endpoints file. Raises CommandFailed."""
    read_region(path, None)  # Says in one line what is wrong with the file, if anything is.
    return list(msgspec.json.decode(path.read_bytes())["regions"])


def client_for(endpoints: Endpoints, seconds_max: float) -> KeyClient:
    """A client that is still to be entered. Raises CommandFailed if the CA's file is none."""
    try:
        return KeyClient(endpoints, timeout=seconds_max)
    except OSError as error:  # The system doesn't say which file it was, and of a malformed one next to nothing.
        reason = "no certificate is in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise CommandFailed(f"{endpoints.ca_file}: {reason}") from None


def with_client(options: argparse.Namespace, act: Callable[[KeyClient], Awaitable[T]]) -> T:
    """Runs `act` with a connected client. What can go wrong becomes CommandFailed."""
    region = client_for(read_region(endpoints_file(options), options.region), options.timeout)

    async def run() -> T:
        async with region as client:
            return await act(client)

    try:
        return trio.run(run)
    except KmsError as refusal:
        raise CommandFailed(refusal.message, code=refusal.code) from None
    except (KeyClientError, OSError, ValueError, OverflowError) as error:  # The last two: what no wire format takes.
        raise CommandFailed(str(error) or type(error).__name__) from None


def seconds(text: str) -> float:
    """A duration on the command line."""
    value = float(text)
    if not 0 < value <= TIMEOUT_S_MAX:
        raise argparse.ArgumentTypeError(f"more than 0 and at most {TIMEOUT_S_MAX:.0f} seconds")
    return value
