"""A node as a process of its own: started, killed, told to stop, paused. Everything is done by its process id.

What we start ends with us, however we end (PDEATHSIG), also what is paused.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from keycluster.node.hardening import child_environment
from keycluster.simulations.trace import What

STOP_S_MAX: Final = 15.0
"""A leader hands over first; then half a second is for connections."""
LOG_LINES_SHOWN: Final = 1


@dataclass(slots=True, eq=False)
class NodeProcess:
    """One node. `told` is called with what becomes of it: a record's kind and a reason."""

    name: str
    az: str
    address: str
    """From which it dials."""
    config: Path
    sealed_config: Path
    """The same, but for a seal that isn't there."""
    log: Path
    told: Callable[["NodeProcess", str, str], None]
    process: "subprocess.Popen[bytes] | None" = None
    is_paused: bool = False
    is_wanted: bool = False
    """Whether its end is nobody's doing but its own."""
    held_by: int = 0
    """How many faults keep it down."""
    log_bytes: int = 0
    """Of its log, when it was started last."""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_up(self) -> bool:
        """Running, not paused, and not about to be ended."""
        return self.is_running and self.is_wanted and not self.is_paused

    def start(self) -> None:
        """Does nothing if it runs, or while a fault keeps it down."""
        if not self.is_running and not self.held_by:
            self.is_wanted = True
            self.launch(self.config)

    def launch(self, config: Path) -> None:
        """Starts it, whatever is to come of that."""
        with self.log.open("ab") as log:
            self.log_bytes = log.tell()
            # Not through trio: it starts processes in a thread, and PDEATHSIG is about the starting thread's end.
            self.process = subprocess.Popen(  # noqa: S603 (our own command)
                [sys.executable, "-m", "keycluster.simulations.torture.node_main", self.address, str(os.getpid()),
                 "node", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=config.parent,
                env=dict(child_environment()),
                start_new_session=True,  # A terminal's Ctrl-C is for us alone: we end them.
            )  # fmt: skip
        self.is_paused = False
        self.told(self, What.STARTS, f"pid {self.process.pid}")

    async def wait(self) -> int:
        """For its end; returns its status."""
        process = self.process
        if process is None:
            return 0
        if process.poll() is None:
            descriptor = os.pidfd_open(process.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        return process.wait()

    def kill(self, why: str) -> None:
        """SIGKILL; gone when this returns."""
        self.is_wanted = False
        if self.process is not None and self.is_running:
            self.process.kill()
            self.process.wait()
            self.told(self, What.CRASHES, why)
        self.is_paused = False

    async def stop(self) -> str | None:
        """SIGTERM. Returns what was wrong with its end, if anything was."""
        self.is_wanted = False
        process = self.process
        if process is None or not self.is_running:
            return None
        self.resume()
        process.terminate()
        status: int | None = None
        with trio.move_on_after(STOP_S_MAX):
            status = await self.wait()
        if status is None:
            self.kill("it didn't stop when told to")
            return f"didn't end within {STOP_S_MAX:g} s"
        self.told(self, What.STOPS, f"status {status}")
        if status == 0 or (status == -signal.SIGTERM and not self._was_up()):
            return None
        return f"ended with status {status}: {self.last_words()}"

    def _was_up(self) -> bool:
        """Before that, Python is still about to start, and ends by the signal itself."""
        with self.log.open("rb") as log:
            log.seek(self.log_bytes)
            return b"node is up" in log.read()

    def pause(self) -> None:
        if self.process is not None and self.is_running and not self.is_paused:
            self.process.send_signal(signal.SIGSTOP)
            self.is_paused = True
            self.told(self, What.PAUSES, "")

    def resume(self) -> None:
        if self.process is not None and self.is_running and self.is_paused:
            self.process.send_signal(signal.SIGCONT)
            self.told(self, What.RESUMES, "")
        self.is_paused = False

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " ".join(lines[-LOG_LINES_SHOWN:])[:500]
