"""Contract 5 on a whole run: no key material in the clear in any file, log, process table or on any wire.

One node is `dev` itself, two more joined through proxies that record all they pass on: between the nodes, at the native
door, at the AWS door. The run's real secrets are then dug out with the seals and looked for in all of it.
"""

import base64
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from keycluster import KeyClient
from keycluster.cluster.keys.hierarchy import Keyring, Purpose
from keycluster.cluster.keys.records import (
    AccessKeyRecord,
    AuthorityRecord,
    JoinTokenRecord,
    KeyRecord,
    Record,
    Table,
    decode_record,
)
from keycluster.cluster.keys.token import TokenMeta, open_backing_key, open_secret
from keycluster.cluster.store.state import StateView
from keycluster.cluster.wire.frames import session_key
from keycluster.simulations.checkers.secrets import HALF_BYTES, forms
from tests.region.capture import Tap
from tests.region.dev_region import DevRegion, Ports, dev_region
from tests.region.node_disk import NodeDisk
from tests.region.steady_load import until_serves

ROWS_MAX = 1000
PLAINTEXT = b"a plaintext that only its owner and the node may see"
JOINED = ("n2", "n3")
R = TypeVar("R", bound=Record)


@dataclass
class Secrets:
    """What must be nowhere, by what it is; and what is allowed to be somewhere."""

    by_name: dict[str, bytes] = field(default_factory=dict)
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, name: str, secret: bytes, *, allowed: tuple[str, ...] = ()) -> None:
        """`allowed`: ends of the names of places where it belongs."""
        self.by_name[name] = secret
        self.allowed[name] = allowed

    def found_in(self, places: Mapping[str, bytes]) -> list[str]:
        return sorted(
            f"{name} in {place}"
            for name, secret in self.by_name.items()
            for place, content in places.items()
            if not place.endswith(self.allowed[name] or ("\0",)) and is_in(secret, content)
        )

    def __repr__(self) -> str:
        return f"Secrets({sorted(self.by_name)})"


def is_in(secret: bytes, content: bytes) -> bool:
    halves = dict.fromkeys((secret[:HALF_BYTES], secret[-HALF_BYTES:]))
    return any(form in content for half in halves for form in forms(half))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's content, links and locks included."""
    return {f"file: {path}": path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def process_tables(pids: Iterable[int]) -> dict[str, bytes]:
    """What other processes can read of these."""
    return {
        f"process: {pid} {name}": Path(f"/proc/{pid}/{name}").read_bytes()
        for pid in pids
        for name in ("environ", "cmdline")
        if os.access(f"/proc/{pid}/{name}", os.R_OK)
    }


def scalar_of(private_key: bytes) -> bytes:
    """The part of a PKCS #8 key that is secret."""
    key = load_der_private_key(private_key, None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes(32, "big")


def dig_out(secrets: Secrets, disks: Iterable[NodeDisk]) -> None:
    """With each node's seal: its own keys, and what the state holds sealed. The nodes' folders are copies."""
    for disk in disks:
        own = disk.secrets()
        node = own.node
        secrets.add(f"{node}'s seal", (disk.folder / "seal.key").read_bytes(), allowed=(f"{node}/seal.key",))
        secrets.add(f"{node}'s peer key", scalar_of(own.peer_key))
        secrets.add(f"{node}'s native key", scalar_of(own.native_key))
        secrets.add(f"{node}'s wrap key", own.wrap_private)
        keyring = own.keyring()
        for number, generation in own.generations:
            secrets.add(f"domain key {number}", generation)
            for purpose in Purpose:
                secrets.add(f"purpose key {number} {purpose}", keyring.purpose_key(number, purpose))
        with disk.stores() as stores:
            _dig_out_state(secrets, stores.state.view, keyring)


def _dig_out_state(secrets: Secrets, view: StateView, keyring: Keyring) -> None:
    for key in _rows(view, Table.KEYS, KeyRecord):
        for backing_key in key.backing_keys:
            meta = TokenMeta(
                account=key.account,
                key_id=key.key_id,
                backing_key_id=backing_key.id,
                spec=key.spec,
                usage=key.usage,
                origin=key.origin,
            )
            secrets.add(f"backing key {backing_key.id.hex()}", open_backing_key(keyring, backing_key.token, meta))
    for authority in _rows(view, Table.AUTHORITIES, AuthorityRecord):
        private_key = open_secret(
            keyring, Purpose.AUTHORITY, authority.private_key_sealed, owner=authority.name.encode()
        )
        secrets.add(f"{authority.name} CA's key", scalar_of(private_key))
    for access_key in _rows(view, Table.ACCESS_KEYS, AccessKeyRecord):
        owner = access_key.access_key_id.encode()
        secret = open_secret(keyring, Purpose.ACCESS_KEY, access_key.secret_sealed, owner=owner)
        secrets.add(f"secret of {access_key.access_key_id}", secret, allowed=("dev.json", "endpoints.json"))
        secrets.add(f"log-in key of {access_key.access_key_id}", session_key(secret))
    for token in _rows(view, Table.JOIN_TOKENS, JoinTokenRecord):
        secret = open_secret(keyring, Purpose.JOIN_TOKEN, token.secret_sealed, owner=token.token_id)
        secrets.add(f"secret of join token {token.token_id.hex()}", secret)


def _rows(view: StateView, table: Table, kind: type[R]) -> list[R]:
    return [decode_record(row, kind) for _, row in view.scan(table, limit=ROWS_MAX)]


async def use_everything(region: DevRegion, secrets: Secrets, tapped_aws: int) -> None:
    """Every operation that makes, uses or returns key material, at both doors of a tapped node."""
    async with KeyClient.from_endpoints(region.endpoints_file) as client:
        leader = str((await client.node_status()).leader)
        await client.at(leader).transfer_leadership(node_id="n2")
        for name in JOINED:
            node = client.at(name)
            key = (await node.create_key(description=f"made at {name}")).key_metadata.key_id
            sealed = await node.encrypt(key_id=key, plaintext=PLAINTEXT, encryption_context={"at": name})
            await node.rotate_key_on_demand(key_id=key)
            await node.decrypt(ciphertext_blob=sealed.ciphertext_blob, encryption_context={"at": name})
            await node.re_encrypt(
                ciphertext_blob=sealed.ciphertext_blob,
                source_encryption_context={"at": name},
                destination_key_id=key,
            )
            data_key = await node.generate_data_key(key_id=key, key_spec="AES_256")
            secrets.add(f"data key from {name}", data_key.plaintext or b"")
            secrets.add(f"random bytes from {name}", (await node.generate_random(number_of_bytes=32)).plaintext or b"")
            await node.generate_data_key_without_plaintext(key_id=key, key_spec="AES_256")
            await node.create_access_key(account="123456789012")
        await trio.to_thread.run_sync(_use_aws_door, region, secrets, tapped_aws, key)
    secrets.add("plaintext", PLAINTEXT)


def _use_aws_door(region: DevRegion, secrets: Secrets, port: int, key: str) -> None:
    kms = region.boto3(region.node("n2"), endpoint_url=f"http://127.0.0.1:{port}")
    data_key = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    assert kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]
    # This door is plain HTTP on loopback: what exists to return it returns it there, and nothing else shows it.
    secrets.add("data key by AWS's API", data_key["Plaintext"], allowed=("AWS door answers",))
    sealed = kms.encrypt(KeyId=key, Plaintext=b"another plaintext, seen at the AWS door alone")
    secrets.add("plaintext by AWS's API", b"another plaintext, seen at the AWS door alone", allowed=(
        "AWS door questions", "AWS door answers",
    ))  # fmt: skip
    kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"])


@dataclass(frozen=True, slots=True)
class Tapped:
    """Where the proxies before one joining node stand."""

    ports: Ports
    aws: int


async def tapped(tap: Tap, name: str) -> Tapped:
    ports = Ports.free()
    peer = await tap.stand_before(f"{name} peer port", ports.peer)
    native = await tap.stand_before(f"{name} native door", ports.native)
    aws = await tap.stand_before(f"{name} AWS door", ports.aws)
    return Tapped(Ports(ports.peer, ports.native, ports.aws, peer_told=peer, native_told=native), aws)


@pytest.mark.timeout(240)
async def test_no_key_material_in_files_logs_process_tables_or_on_a_wire(tmp_path: Path) -> None:
    """The scan finds nothing, and finds a leak that was planted, in whatever form."""
    secrets, places = Secrets(), {}
    with dev_region(tmp_path / "region", "--nodes", "1") as region:
        async with trio.open_nursery() as nursery:
            tap = Tap(nursery)
            ways = {name: await tapped(tap, name) for name in JOINED}
            for name, az in zip(JOINED, ("us-east-1b", "us-east-1c"), strict=True):
                await trio.to_thread.run_sync(partial(region.join_node, name, az, ports=ways[name].ports))
                await until_serves(region, name, role="voter")
            await use_everything(region, secrets, ways["n2"].aws)
            pids = [node.pid for node in region.nodes()]
            places.update({f"running {name}": content for name, content in files_of(region.folder).items()})
            places.update(process_tables(pids))
            for name in JOINED:  # Their WALs as they are.
                await trio.to_thread.run_sync(region.kill_node, name)
            places.update({f"killed {name}": content for name, content in files_of(region.folder).items()})
            nursery.cancel_scope.cancel()
    places.update(files_of(region.folder))
    log = region.folder.with_suffix(".log")
    places[f"file: {log}"] = log.read_bytes()
    wire = tap.said()
    places.update(wire)
    dig_out(secrets, [_copy(region, name, tmp_path) for name in ("n1", *JOINED)])
    kinds = {name.split(" ")[0] for name in secrets.by_name}
    assert {"domain", "purpose", "backing", "peer", "client", "secret", "data"} <= kinds
    assert all(wire[f"wire: {name} {port} {side}"] for name in JOINED for port in ("peer port", "native door")
               for side in ("questions", "answers"))  # fmt: skip
    assert secrets.found_in(places) == []
    # It can find: what the AWS door is allowed to say it did say, once for each of the two operations.
    said = wire["wire: n2 AWS door answers"]
    assert said.count(base64.b64encode(secrets.by_name["data key by AWS's API"])) == 2
    planted = plant(secrets, region.node_folder("n2") / "node.log")
    print(
        f"\n{len(secrets.by_name)} secrets in {len(places)} places, {sum(map(len, places.values())):,} bytes, of which "
        f"{sum(map(len, wire.values())):,} on {len(wire)} wires: none found; {planted} planted leaks: all found"
    )


def _copy(region: DevRegion, name: str, place: Path) -> NodeDisk:
    return NodeDisk.of(region.node_folder(name)).copy_to(place / f"copy of {name}")


def plant(secrets: Secrets, log: Path) -> int:
    """Writes each backing key into a node's log, in one form after the other; each is found there, and only there."""
    clean, planted = log.read_bytes(), 0
    for name, secret in secrets.by_name.items():
        if not name.startswith("backing key"):
            continue
        written = [
            secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(b"before" + secret),
            repr(secret).encode(),
        ]  # fmt: skip
        for form in written:
            log.write_bytes(clean + b"2026-01-01T00:00:00Z key=" + form + b"\n")
            assert secrets.found_in(files_of(log.parent)) == [f"{name} in file: {log}"]
            planted += 1
    log.write_bytes(clean)
    assert planted > 0
    return planted


ABORTS = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)); os.abort()"


@pytest.mark.timeout(120)
def test_a_node_leaves_no_core_dump(tmp_path: Path) -> None:
    """Its limit is 0; with the limit lifted by whoever may, an aborting node still leaves none."""
    with dev_region(tmp_path / "region") as region:
        for node in region.nodes():
            limits = Path(f"/proc/{node.pid}/limits").read_text()
            line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
            assert line.split()[4:6] == ["0", "0"]
        region.kill_node("n3")
        run = region.run_node("n3")
        while "node is up" not in run.text:
            assert run.process.poll() is None, run.text
        lifted = _lift_core_limit(run.process.pid)
        run.process.send_signal(signal.SIGABRT)
        assert _end_code(run.process) == os.CLD_KILLED
        assert list(region.node_folder("n3").glob("core*")) == []
    control = subprocess.Popen([sys.executable, "-c", ABORTS], cwd=tmp_path)
    would_dump = _end_code(control) == os.CLD_DUMPED
    print(f"\nno core dump of a node; limit lifted: {lifted}; another process would have left one: {would_dump}")


def _lift_core_limit(pid: int) -> bool:
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except PermissionError:
        return False  # Only root may: then the limit of 0 stands.
    return True


def _end_code(process: subprocess.Popen[bytes]) -> int:
    """How the kernel says that it ended: CLD_KILLED, or CLD_DUMPED with a core dump."""
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait()
    assert ended is not None
    return ended.si_code
