"""Hardening, looked at from outside: each test runs a child process and asks the kernel about it."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from keycluster.node.hardening import HardeningRefused, child_environment, refuse_key_log

DEADLINE = 20


def run_python(code: str, *, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_hardened_process_leaves_no_core() -> None:
    """No core by limit, none by flag, so that a core_pattern with a pipe gets none either."""
    done = run_python(
        "import resource\n"
        "from keycluster.node.hardening import harden, is_dumpable\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))\n"
        "print(is_dumpable()); harden(); print(is_dumpable(), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    assert done.stdout.splitlines() == ["True", "False (0, 0)"]


def test_memory_of_a_hardened_process_is_not_its_users() -> None:
    """The kernel takes /proc/PID/mem from the user: a debugger of the same user finds it owned by root."""
    done = run_python(
        "import os; from keycluster.node.hardening import harden\n"
        "os.setresuid(65534, 65534, 65534) if os.getuid() == 0 else None\n"
        "print(os.stat('/proc/self/mem').st_uid == os.getuid()); harden(); print(os.stat('/proc/self/mem').st_uid)"
    )
    # Changing the user makes a process undumpable by itself, hence nothing is asked of the first line as root.
    assert done.stdout.splitlines()[-1] == "0", done.stderr


def test_files_of_a_hardened_process_are_private() -> None:
    """The umask lets nobody else read what it writes."""
    done = run_python(
        "import os, tempfile; from keycluster.node.hardening import harden\n"
        "harden(); folder = tempfile.mkdtemp(); path = os.path.join(folder, 'f'); open(path, 'w').close()\n"
        "print(oct(os.stat(path).st_mode & 0o777)); os.unlink(path); os.rmdir(folder)"
    )
    assert done.stdout.strip() == "0o600"


def test_key_log_is_refused() -> None:
    """SSLKEYLOGFILE, even empty, stops the start in one line, before any secret."""
    for value in ("/tmp/keys", ""):
        with pytest.raises(HardeningRefused, match="SSLKEYLOGFILE is set") as raised:
            refuse_key_log({"SSLKEYLOGFILE": value})
        assert "\n" not in str(raised.value)
    refuse_key_log({"PATH": "/bin"})
    done = run_python(
        "from keycluster.node.hardening import harden; harden()", environment={"SSLKEYLOGFILE": "/tmp/keys"}
    )
    assert done.returncode == 1
    assert "SSLKEYLOGFILE is set" in done.stderr


def test_children_inherit_no_key_log() -> None:
    """What `dev` starts gets the environment without it."""
    inherited = child_environment({"SSLKEYLOGFILE": "/tmp/keys", "PATH": "/bin"})
    assert inherited == {"PATH": "/bin"}


def test_uncaught_exception_shows_no_locals() -> None:
    """Not in the main thread, not in another, and not when somebody installed a hook that does."""
    done = run_python(
        "import sys, threading\n"
        "def tell_all(*args): print(args[2].tb_next.tb_frame.f_locals if args[2] else args)\n"
        "sys.excepthook = tell_all\n"
        "from keycluster.node.hardening import harden\n"
        "harden()\n"
        "def work():\n"
        "    secret = 'a' + 'bcdefgh'\n"
        "    raise ValueError('what went wrong')\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join(); work()"
    )
    assert done.returncode == 1
    assert done.stderr.count("ValueError: what went wrong") == 2
    assert "abcdefgh" not in done.stderr + done.stdout


def test_memory_is_locked_where_the_limit_allows() -> None:
    """The process says truly whether swap is excluded; with a finite limit and no right to pass it, it isn't."""
    code = (
        "import resource\n"
        "from keycluster.node import hardening\n"
        "{before}\n"
        "done = hardening.harden()\n"
        "locked = [line for line in open('/proc/self/status') if line.startswith('VmLck')][0].split()[1]\n"
        "print(done.swap_excluded, int(locked) > 0)"
    )
    without = "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536)); hardening.CAP_IPC_LOCK = 63"
    assert run_python(code.format(before=without)).stdout.split() == ["False", "False"]
    excluded, locked = run_python(code.format(before="")).stdout.split()
    assert excluded == locked


def test_locked_process_can_still_allocate() -> None:
    """A locked process is never refused memory by the lock's limit: 200 MB more work as before."""
    done = run_python("from keycluster.node.hardening import harden; harden(); print(len(bytes(200_000_000)))")
    assert done.stdout.strip() == "200000000", done.stderr


def test_key_reaches_tls_in_a_hardened_process() -> None:
    """An undumpable process of an ordinary user still reads its own in-memory key (/proc/self/fd)."""
    code = (
        "import os, sys\n"
        "from keycluster.node.hardening import harden\n"
        "from keycluster.node.network import _server_context\n"
        "from tests.node.tls_parties import new_parties\n"
        "parties = new_parties()\n"
        "if os.getuid() == 0: os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "harden()\n"
        "_server_context(parties.node('n1', parties.client_ca).identity)\n"
        "print('loaded')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "loaded", done.stderr


def test_child_ends_with_its_parent() -> None:
    """However the parent ends (here SIGKILL), the kernel ends the child."""
    child_code = (
        "import os, sys, time; from keycluster.node.hardening import die_with_parent\n"
        "die_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent_code = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child_code!r}, str(os.getpid())]); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        # The pipe that both hold ends when both have: the child would sleep for longer than this waits.
        rest, _ = parent.communicate(timeout=DEADLINE)
        assert rest == b""
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.wait()


def test_child_of_a_parent_that_is_gone_ends_itself() -> None:
    """If the parent ended before the child asked the kernel, the child finds out."""
    done = run_python("from keycluster.node.hardening import die_with_parent; die_with_parent(1 << 22)")
    assert done.returncode == 128 + signal.SIGTERM
