"""Groups of replicas (Raft core, leases, time) on a bare event heap: no trio, no SQLite, for depth.

    state     the key state's stand-in              member    one replica, its disk, from a start to a crash
    machine   what a member runs on: its clock      network   who reaches whom, and when
    world     the heap, inputs and outputs; scenarios of tests are written with it
    contract  contract 2, one leader, digests       safety    Raft's five safety properties
    clients   callers that retry, and their history nemesis   carries out a schedule of faults
    run       one run from a seed: faults, then peace, in which all must go on
    speed     simulated seconds to a wall second

All checkers look only at what a step changed, so that a step costs the same in a run of any length. Messages are handed
over as objects: what their codec does is the region simulator's to find.
"""
