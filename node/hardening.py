"""What a process does before the first secret enters its memory (security.md, 11).

No core dumps, no debugger of the same user, no swap where the system lets us, no TLS key log, private files. Wiping
memory afterwards is not promised: Python copies bytes freely.

Call `harden` first thing in every process that will hold secrets, the children of `dev` included.
"""

import ctypes
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PRIVATE_UMASK = 0o077

# <sys/prctl.h>, <sys/mman.h>, <linux/capability.h>
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4
CAP_IPC_LOCK = 14

KEY_LOG_VARIABLE = "SSLKEYLOGFILE"


class HardeningRefused(Exception):
    """The process must not go on to handle secrets; the text is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Hardening:
    """What was achieved beyond what is required."""

    swap_excluded: bool
    """False: the system may write this process's memory to swap. `status` says so."""


def harden(environment: Mapping[str, str] | None = None) -> Hardening:
    """Does all of it, in order. Raises `HardeningRefused` where a required step fails."""
    refuse_key_log(os.environ if environment is None else environment)
    os.umask(PRIVATE_UMASK)
    _forbid_core_dumps()
    hide_locals()
    return Hardening(swap_excluded=_exclude_swap())


def refuse_key_log(environment: Mapping[str, str]) -> None:
    """OpenSSL and others write every TLS session's secrets to the file that this variable names."""
    if KEY_LOG_VARIABLE in environment:
        raise HardeningRefused(f"{KEY_LOG_VARIABLE} is set: it would write TLS secrets to a file; unset it and restart")


def child_environment(environment: Mapping[str, str] | None = None) -> MutableMapping[str, str]:
    """The environment for processes that we start: ours without what would weaken them."""
    inherited = os.environ if environment is None else environment
    return {name: value for name, value in inherited.items() if name != KEY_LOG_VARIABLE}


def die_with_parent(parent: int, *, signal_number: int = signal.SIGTERM) -> None:
    """Lets the kernel send us `signal_number` when our parent process `parent` ends, however it ends.

    For the nodes of `dev`. Call it in the child, with the pid that the parent said it has: if the parent ended before
    we asked, somebody else is our parent already and we end ourselves. Raises `SystemExit` then.
    """
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        raise SystemExit(128 + signal_number)


def hide_locals() -> None:
    """Uncaught exceptions are shown without the values of local variables, whatever was installed before."""
    sys.excepthook = _show_exception
    threading.excepthook = _show_thread_exception


def is_dumpable() -> bool:
    """Whether the kernel would dump this process, or let another of the same user read its memory."""
    return _prctl(PR_GET_DUMPABLE, 0) != 0


def _forbid_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core_pattern that begins with a pipe ignores the limit (core(5)); this flag it heeds.
    _prctl(PR_SET_DUMPABLE, 0)
    if is_dumpable():
        raise HardeningRefused("the kernel does not let this process forbid core dumps")


def _exclude_swap() -> bool:
    """Locks memory if no limit can ever refuse a later allocation: one that fails then would stop the node.

    Pages are locked as they are touched (MCL_ONFAULT), so that the stacks of idle threads cost nothing.
    """
    if not _may_lock_all():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0)


def _may_lock_all() -> bool:
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return True
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_IPC_LOCK & 1)
    return False


def _prctl(option: int, value: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.prctl(option, value, 0, 0, 0))
    if result < 0:
        error = ctypes.get_errno()
        raise HardeningRefused(f"prctl {option} failed: {os.strerror(error)}")
    return result


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    shown = traceback.TracebackException(kind, error, trace, capture_locals=False)
    sys.stderr.write("".join(shown.format()))


def _show_thread_exception(args: Any) -> None:
    if args.exc_type is not SystemExit and args.exc_value is not None:
        _show_exception(args.exc_type, args.exc_value, args.exc_traceback)
