"""Many runs: from a range of seeds to what they found, shrunk and drawn.

- `origin`: of which code a run is, and of what is under it.
- `worker`: one run after the other in a process of its own; `pool`: such processes on this machine; `remote`: on many
  machines, by Dask.
- `campaign`: hands out seeds, counts each once; `totals`: what they come to, and what was never seen.
- `shrink`: the smallest run that still fails; `findings`: the files a failure leaves; `replay_file`: the one by which
  it is run again.

Each uses only what stands before it here. A simulator is named by its module, which has `SUPPORTED` and `run`.
"""
