"""What an application imports: a client of a region, on trio and asyncio.

key_client.py   KeyClient: opens and closes, calls and envelope encryption
operations/     one typed method per operation
region.py       which node gets a call, retries, connecting
nodes.py        what is known of each node
connection.py   one pipelined connection: shared frames, replies by number, deadlines, silence
login.py        who is there, proved both ways
surroundings.py where the world comes in: connections and randomness
transport.py    TLS 1.3 over anyio's sockets
envelope/       data of any size, in the AWS Encryption SDK's message format
endpoints.py    where a region is; the file that `keycluster dev` writes
errors.py       all that can be raised

Each builds only on those below it, and of the rest of Keycluster only on cluster/wire and cluster/types.
"""
