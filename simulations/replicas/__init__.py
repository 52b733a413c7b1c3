"""Groups of replicas (Raft core, leases, time) on a bare event heap: no trio, no SQLite, thousands of runs an hour.

- `member`: one replica with a disk that loses what wasn't synced and a state that applies slowly.
- `world`: the heap, the network and each member's clock; the checker runs after every step.
- `chaos`: one random run from a seed: faults, changes of members, hand-overs; then peace, in which all must go on.
- `planted`: each lease rule left out, to see that the checker notices.

`python -m keycluster.simulations.replicas --seeds 1000` runs many.
"""
