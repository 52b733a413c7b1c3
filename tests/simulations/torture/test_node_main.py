"""A node under torture dials from an address of its own, and is the product otherwise."""

import os
import socket
import subprocess
import sys
from importlib.metadata import version

ADDRESS = "127.0.1.9"
DIAL = (
    "import socket, sys; from keycluster.simulations.torture.node_main import dial_from; dial_from(sys.argv[1]); "
    "socket.create_connection(('127.0.0.1', int(sys.argv[2])))"
)


def test_connections_come_from_the_given_address() -> None:
    """So a proxy knows whose they are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        subprocess.run([sys.executable, "-c", DIAL, ADDRESS, str(server.getsockname()[1])], check=True, timeout=30)
        connected, (host, _) = server.accept()
        connected.close()
    assert host == ADDRESS


def test_the_rest_of_the_command_line_is_keycluster_s() -> None:
    """Words after the address and the parent go to the product's own command."""
    done = subprocess.run(
        [sys.executable, "-m", "keycluster.simulations.torture.node_main", ADDRESS, str(os.getpid()), "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == f"keycluster {version('keycluster')}"
