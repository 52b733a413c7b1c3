"""Whether a node's log and its key state belong together, asked once both are open.

The state is written only from entries that the log holds durably, and the log is compacted only up to what the state
holds durably. So a state beyond the log's end, or a gap between the two, means that one of the files was rolled back
or lost its end; with one exception: a crash between a snapshot's installation and the log's reset to it.
"""

from pathlib import Path

from keycluster.cluster.store.errors import StoreDamaged
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore


def join_up(log: LogStore, state: StateStore, *, folder: Path) -> None:
    """Finishes a snapshot's installation that a crash cut short. Raises `StoreDamaged` if the two don't join up."""
    meta = state.view.snapshot_meta
    base_index, _ = log.base
    if base_index > meta.index:
        raise StoreDamaged(folder, f"the log begins after entry {base_index}, the state ends at {meta.index}")
    joins = meta.index <= log.last_index and log.term(meta.index) == meta.term
    if joins:
        return
    if state.installed_index != meta.index:
        raise StoreDamaged(
            folder,
            f"the state holds entry {meta.index} of term {meta.term}, the log ends at {log.last_index} without it",
        )
    log.reset_to(meta)
