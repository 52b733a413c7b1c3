"""A node's disk as its thief, or its owner with the seal, sees it: for tests that read or change it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from keycluster.node.config import NodeConfig, load_config
from keycluster.node.making import LOG_FOLDER, STATE_FOLDER
from keycluster.node.raft_driver import Stores
from keycluster.node.run import open_stores
from keycluster.node.seal_source import open_seal
from keycluster.node.sealing import SEALED_NAME, NodeSecrets, open_secrets
from keycluster.node.world import real_world


@dataclass(frozen=True, slots=True)
class NodeDisk:
    """One node's folder, with its seal beside the data."""

    folder: Path
    data: Path

    @classmethod
    def of(cls, folder: Path) -> "NodeDisk":
        return cls(folder, folder / "data")

    def copy_to(self, place: Path) -> "NodeDisk":
        """The data as it is now; the seal stays where it is."""
        if place.exists():
            shutil.rmtree(place)
        shutil.copytree(self.data, place)
        return replace(self, data=place)

    @property
    def log(self) -> Path:
        return self.data / LOG_FOLDER / "log.db"

    @property
    def state(self) -> Path:
        return self.data / STATE_FOLDER / "state.db"

    @property
    def sealed(self) -> Path:
        return self.data / SEALED_NAME

    @property
    def config(self) -> NodeConfig:
        return replace(load_config(self.folder / "node.toml"), data=self.data)

    def secrets(self) -> NodeSecrets:
        """What its seal opens."""
        disk, config = real_world().disk, self.config
        seal = open_seal(replace(config, data=self.folder / "data"), disk=disk)
        return open_secrets(seal, region=config.region, node=config.node, data=self.data, disk=disk)

    @contextmanager
    def stores(self) -> Iterator[Stores]:
        """Opened and verified as at a node's start. Raises StoreError. Only where no node has the folder open."""
        stores = open_stores(self.config, self.secrets(), world=real_world())
        try:
            yield stores
        finally:
            stores.log.close()
            stores.state.close()


@contextmanager
def sql(database: Path) -> Iterator[sqlite3.Connection]:
    """Changes a database as anybody with the file could, and leaves no WAL behind."""
    connection = sqlite3.connect(database)
    try:
        with connection:
            yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def flip_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x5A]))
