"""A node's two databases: the Raft log and the applied key state, in SQLite, authenticated (security.md, 5).

What builds on what, from the bottom:

- `errors`: what can go wrong, by whose doing.
- `authentication`: MACs, the log's chain, the state's set hash. No files.
- `wal`: tells a torn write-ahead log from a damaged one, before SQLite opens it.
- `database`: one SQLite file: creation, opening, transactions, checkpoints.
- `log`: `LogStore`, the log with term and vote.
- `rows`, `snapshot`, `state`: rows and their whole check, snapshot files, and `StateStore` with its view and
  transaction.
- `recovery`: whether a log and a state belong together.

What it can't tell alone: damage inside the very last commit looks like a torn one, and a whole file from yesterday is
in order in itself. For both, peers know more (the witness that `LogStore` keeps for them). And a row that a rotten
page hides while the store is open reads as absent until the next start checks the set hash; an altered one is never
served.
"""
