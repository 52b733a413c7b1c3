"""`keycluster` with its outgoing connections from one address of this machine: `node_main ADDRESS PARENT WORD…`.

On one machine all nodes dial from 127.0.0.1, and a proxy couldn't tell whose connection it is. So each node's process
dials from its own address of 127.0.0.0/8. And it is killed when its parent, whose process id is PARENT, ends: SIGTERM,
as for the nodes of `dev`, would wait for ever in one that is paused. Nothing else of it is changed.
"""

import runpy
import signal
import socket
import sys
from typing import Any

from keycluster.node.hardening import die_with_parent

_connect = socket.socket.connect


def dial_from(address: str) -> None:
    """From now on, in this process, over IPv4."""

    def connect(self: socket.socket, to: Any) -> None:
        if self.family == socket.AF_INET and self.getsockname()[1] == 0:
            self.bind((address, 0))
        _connect(self, to)

    socket.socket.connect = connect  # type: ignore[method-assign,assignment]  # That is the purpose.


if __name__ == "__main__":
    dial_from(sys.argv.pop(1))
    die_with_parent(int(sys.argv.pop(1)), signal_number=signal.SIGKILL)
    runpy.run_module("keycluster", run_name="__main__", alter_sys=True)
