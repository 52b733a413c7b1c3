"""What clients do to a region, whatever it runs on: drawn from a seed, recorded in a history, judged elsewhere.

workload.py        many clients at a rate, and the calls at a run's end
access_steps.py    access keys made, used, withdrawn
bursts.py          what follows a change at once, at every node; repeats
control_steps.py   changes and reads of the control plane
data_steps.py      steps on the data plane
turns.py           one step of one client: asks, and records what came of it
plan.py            which steps a seed has and how often: swarm testing
pool.py            keys, ciphertexts, aliases that all clients share
doors.py           one way to ask, and the native door behind it
aws_door.py        the AWS door, with the retries of AWS's SDKs
aws_http.py        its requests and answers as bytes

Nothing here reads a clock but trio's, and no other random numbers than the seed's. Each builds only on those below it.
"""
