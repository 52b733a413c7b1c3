"""A region of whole nodes on virtual time: the product's own code, on simulated clocks, disks, networks and processes.

run.py              one run, from a seed to a report
finish.py           its end: liveness, and peace
nemesis.py          carries out a schedule of faults; network_, node_, member_ and loss_faults.py say how
attack.py           what several faults at once have done to links
workload.py         its clients; clients.py and aws_client.py are their programs
state_checks.py     what must hold inside at each step; secrecy.py, unanswered.py, logs.py, rot.py are parts of that
template.py         regions ready to start
region.py           machines, and what an operator does to them
node.py             one machine: its disk, its clock and at most one process
network.py          the seam; trust.py, sim_stream.py, pipes.py, links.py are below it
process.py          what can be stopped and killed
clock.py entropy.py the other seams
wire.py             virtual time; deterministic.py makes trio a function of a seed, guards.py keeps the real world out

Each builds only on those below it.
"""
