"""What a region agrees on: consensus, stores, leases, keys and the formats on wire and disk.

Built on each other, lowest first: `types`, `seams` · `wire` · `raft` (no I/O) · `store` · `keys` (the state machine) ·
`leases`, `cluster_time` · `replica` (consensus, leases and acknowledgements of one member, no I/O).
"""
