"""Consensus of a region's members: Raft without input and output.

`core.RaftCore` is what people come for; `messages` has what goes into log, disk and network, `ready.Ready` what the
core wants done, `config.RaftConfig` its times and limits, `errors` why it refuses, `log.LogReader` what it needs of a
store. Nothing here imports anything that waits, reads a clock or draws a random number.
"""
