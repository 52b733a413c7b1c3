"""What must never be read on the wire or on a disk in a run: gathered as it comes to be, and looked for.

Domain keys, nodes' private keys, their seals, and every backing key. Looked for in all that is sent, inside TLS too:
none of these leaves a node in the clear, whoever listens. And on the disks at the end; but for the seals' own files,
which an operator keeps elsewhere.
"""

from collections.abc import Callable, Collection
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from keycluster.cluster.keys.records import Table, load_key
from keycluster.cluster.keys.token import TokenMeta, open_backing_key
from keycluster.cluster.types import KeyId
from keycluster.node.sealing import NodeSecrets
from keycluster.simulations.checkers.secrets import Found, SecretSearch
from keycluster.simulations.region.node import SimNode

SCALAR_BYTES = 32  # Of EC P-256.


class SecrecyWatch:
    """One run's."""

    def __init__(self, *, found: Callable[[str, str], None]) -> None:
        """`found`: told checker and message."""
        self._found = found
        self._search = SecretSearch()
        self._known: set[str] = set()

    def tap(self, sender: str, receiver: str, content: bytes) -> None:
        """All that is sent."""
        self._tell(self._search.feed(f"{sender} to {receiver}", content))

    def learn_node(self, node: SimNode, secrets: NodeSecrets) -> None:
        """A node has opened its folder."""
        for number, key in secrets.generations:
            self._add(f"domain key {number}", key)
        self._add(f"wrap key of {node.name}", secrets.wrap_private)
        self._add(f"peer key of {node.name}", _scalar(secrets.peer_key))
        self._add(f"native key of {node.name}", _scalar(secrets.native_key))
        path = node.config.seal.path
        seal = node.disk.read(path) if path is not None else None
        if seal:
            self._add(f"seal of {node.name}", seal)

    def learn_rows(self, node: SimNode, touched: Collection[tuple[int, bytes]]) -> None:
        """Rows were written: keys among them have backing keys."""
        running = node.running
        if running is None:
            return
        for table, row in touched:
            record = load_key(running.stores.state.view, KeyId(row.decode())) if table == Table.KEYS else None
            for backing in record.backing_keys if record is not None else ():
                name = f"backing key {backing.id.hex()}"
                if record is None or name in self._known:
                    continue
                meta = TokenMeta(
                    account=record.account,
                    key_id=record.key_id,
                    backing_key_id=backing.id,
                    spec=record.spec,
                    usage=record.usage,
                    origin=record.origin,
                )
                self._add(name, open_backing_key(running.room.keyring, backing.token, meta))

    def look_on_disk(self, node: SimNode) -> None:
        """All of its files."""
        for path, content in node.disk.files().items():
            if path != node.config.seal.path:
                self._tell(self._search.look_in(f"{path}", content))

    def _add(self, name: str, secret: bytes) -> None:
        if name not in self._known:
            self._known.add(name)
            self._search.add(name, secret)

    def _tell(self, found: list[Found]) -> None:
        for one in found:
            failure = one.failure()
            self._found(failure.checker, failure.message)


def _scalar(private_key: bytes) -> bytes:
    """The secret in a private key's encoding; the rest of it is the same for all, or public."""
    loaded = cast(EllipticCurvePrivateKey, load_der_private_key(private_key, None))
    return loaded.private_numbers().private_value.to_bytes(SCALAR_BYTES, "big")
