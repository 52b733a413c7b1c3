"""`make demo`: the main job in under a minute, on real processes.

A region in three zones is started; keys are made and used at different nodes, by our client and by boto3; a 64 MB file
is envelope-encrypted; half-way the leader is killed, and everything goes on. The summary says what failed and how long
writes stopped. Everything is done in a temporary folder, which is removed at the end.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from keycluster import KeyClient, errors
from keycluster.cli.main import INTERRUPTED

REGION = "us-east-1"
FILE_BYTES = 64 * 1024 * 1024
KILL_AT = 0.5  # Of the file.
START_S_MAX = 60.0
RECOVER_S_MAX = 10.0
CONTEXT = {"purpose": "demo"}

console = Console(highlight=False)


@dataclass
class Load:
    """What a steady load of calls saw."""

    calls: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    async def run(self, call: Callable[[], Awaitable[Any]], pause_s: float) -> None:
        while True:
            began = trio.current_time()
            try:
                await call()
            except (errors.KmsError, errors.KeyClientError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            self.calls += 1
            self.slowest_s = max(self.slowest_s, trio.current_time() - began)
            await trio.sleep(pause_s)


def main() -> int:
    """Runs the demo. Returns the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="keycluster-demo-") as folder:
        console.print("[bold]Keycluster[/bold]  a region of three zones on this machine, from nothing\n")
        complaints = Path(folder) / "complaints"  # Of the killed leader's end, too: not in the midst of a progress bar.
        with complaints.open("wb") as stderr:
            region = subprocess.Popen(
                [sys.executable, "-m", "keycluster", "dev", "--dir", folder, "--regions", REGION],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            endpoints = _wait_for_region(Path(folder) / "endpoints.json", region, complaints)
            _done(f"three nodes answer, in {', '.join(node['az'] for node in endpoints['nodes'])}", began)
            trio.run(_demonstrate, Path(folder), endpoints)
        finally:
            region.send_signal(signal.SIGTERM)
            region.wait(timeout=20)
    console.print(f"\n[dim]All of it took {time.monotonic() - began:.0f} s.[/dim]")
    return 0


def _wait_for_region(path: Path, region: "subprocess.Popen[bytes]", complaints: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_S_MAX
    while not path.exists():
        if region.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the region did not start: {complaints.read_text().strip()}")
        time.sleep(0.05)
    content = json.loads(path.read_text())
    return {**content, "nodes": content["regions"][REGION]["nodes"]}


def _done(text: str, began: float) -> None:
    console.print(f"  [green]✓[/green] {text} [dim]({(time.monotonic() - began) * 1000:,.0f} ms)[/dim]")


async def _demonstrate(folder: Path, endpoints: dict[str, Any]) -> None:
    path = folder / "endpoints.json"
    async with KeyClient.from_endpoints(path, region=REGION) as client:
        began = time.monotonic()
        key = (await client.create_key(description="demo")).key_metadata.key_id
        await client.create_alias(alias_name="alias/demo", target_key_id=key)
        _done(f"a key, named alias/demo: {key}", began)
        await _use_at_each_node(client, endpoints)
        await trio.to_thread.run_sync(_use_boto3, endpoints)
        await _file_with_a_dead_leader(client, folder, endpoints, key)


async def _use_at_each_node(client: KeyClient, endpoints: dict[str, Any]) -> None:
    began = time.monotonic()
    names = [node["id"] for node in endpoints["nodes"]]
    ciphertexts = []
    for name in names:
        sealed = await client.at(name).encrypt(
            key_id="alias/demo", plaintext=f"from {name}".encode(), encryption_context=CONTEXT
        )
        ciphertexts.append(sealed.ciphertext_blob)
    for name, ciphertext in zip(names[1:] + names[:1], ciphertexts, strict=True):
        await client.at(name).decrypt(ciphertext_blob=ciphertext, encryption_context=CONTEXT)
    _done(f"encrypted at {', '.join(names)}, each decrypted at the next one", began)


def _use_boto3(endpoints: dict[str, Any]) -> None:
    import boto3  # A development dependency, slow to import.

    began = time.monotonic()
    first, second = (
        boto3.client(
            "kms",
            region_name=REGION,
            endpoint_url=node["aws"],
            aws_access_key_id=endpoints["access_key_id"],
            aws_secret_access_key=endpoints["secret_access_key"],
        )
        for node in endpoints["nodes"][:2]
    )
    blob = first.encrypt(KeyId="alias/demo", Plaintext=b"from boto3", EncryptionContext=CONTEXT)["CiphertextBlob"]
    if second.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] != b"from boto3":
        raise SystemExit("boto3 got another plaintext back")
    _done("the same with boto3, unmodified, Signature Version 4 verified", began)


async def _leader(client: KeyClient) -> str:
    with trio.fail_after(RECOVER_S_MAX):
        while (leader := (await client.node_status()).leader) is None:
            await trio.sleep(0.05)
    return leader


async def _file_with_a_dead_leader(client: KeyClient, folder: Path, endpoints: dict[str, Any], key: str) -> None:
    source, sealed, opened = folder / "file", folder / "file.enc", folder / "file.dec"
    await trio.to_thread.run_sync(lambda: source.write_bytes(os.urandom(FILE_BYTES)))
    writes, uses = Load(), Load()
    count = iter(range(1_000_000_000))
    async with trio.open_nursery() as load:
        load.start_soon(
            writes.run,
            lambda: client.update_key_description(key_id=key, description=f"write {next(count)}"),
            0.0,
        )
        load.start_soon(uses.run, lambda: client.encrypt(key_id=key, plaintext=b"x" * 1024), 0.005)
        leader, killed_at = await _encrypt_and_kill(client, source, sealed, endpoints)
        await _wait_until_writes_go_on(writes, killed_at)
        with opened.open("wb") as sink, sealed.open("rb") as encrypted:
            await client.decrypt_stream(encrypted, sink)
        load.cancel_scope.cancel()
    same = await trio.to_thread.run_sync(lambda: _digest(source) == _digest(opened))
    successor = await _leader(client)
    _summary(leader, successor, writes, uses, same=same)


async def _encrypt_and_kill(
    client: KeyClient, source: Path, sealed: Path, endpoints: dict[str, Any]
) -> tuple[str, float]:
    leader = await _leader(client)
    pid = next(node["pid"] for node in endpoints["nodes"] if node["id"] == leader)
    killed_at: list[float] = []
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bar, source.open("rb") as plain, sealed.open("wb") as sink:
        task = bar.add_task("envelope-encrypting a file", total=FILE_BYTES)

        def progress(done: int) -> None:
            bar.update(task, completed=done)
            if not killed_at and done >= FILE_BYTES * KILL_AT:
                os.kill(pid, signal.SIGKILL)
                killed_at.append(time.monotonic())
                bar.console.print(f"  [red]✗[/red] the leader {leader} is killed (SIGKILL), half-way")

        await client.encrypt_stream(plain, sink, key_id="alias/demo", encryption_context=CONTEXT, progress=progress)
    return str(leader), killed_at[0]


async def _wait_until_writes_go_on(writes: Load, killed_at: float) -> None:
    """Until some writes have come back that began after the kill."""
    enough = writes.calls + 20
    with trio.fail_after(RECOVER_S_MAX):
        while writes.calls < enough:
            await trio.sleep(0.01)
    _done("writes go on under a new leader; the dead one stays dead", killed_at)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _summary(leader: str, successor: str | None, writes: Load, uses: Load, *, same: bool) -> None:
    failed = writes.failed + uses.failed
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("leader", f"{leader} was killed, {successor} took over"),
        ("writes", f"{writes.calls:,} calls, {len(writes.failed)} failed; the longest took {writes.slowest_s:.2f} s"),
        ("encrypts", f"{uses.calls:,} calls, {len(uses.failed)} failed; the longest took {uses.slowest_s:.2f} s"),
        ("file", "64 MiB out and back, " + ("the same bytes" if same else "NOT the same bytes")),
        ("failed", "nothing" if not failed else f"{len(failed)} calls, the first: {failed[0]}"),
    ):
        table.add_row(f"[bold]{name}[/bold]", value)
    ok = same and not failed
    console.print()
    console.print(Panel(table, title="what happened", border_style="green" if ok else "red", expand=False))
    if not ok:
        raise SystemExit(1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BaseExceptionGroup as group:  # A nursery wraps Ctrl-C too.
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        sys.exit(INTERRUPTED)
