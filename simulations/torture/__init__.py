"""A hostile world for real processes: a region of `keycluster dev`, whose nodes are killed, stopped and cut off from
each other while clients use it, and the simulators' checkers over what the clients saw.

folder.py      whose a folder is: nothing of a region in use is touched
links.py       TCP proxies between all programs: they cut, delay, stop and reset
node_main.py   `keycluster node`, dialling from an address of its own, by which a proxy knows it
processes.py   nodes as processes: started, killed, stopped, paused
region.py      a region's folder and processes, and the proxies before them
watch.py       who leads and who serves, asked of the nodes
nemesis.py     carries out a schedule of faults
clients.py     programs that do the simulators' workload
finish.py      what must come back once the faults stop
run.py         one run, from a spec to a report
"""
