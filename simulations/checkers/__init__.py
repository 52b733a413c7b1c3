"""What is checked of a run, by what its clients saw and by what was sent and stored.

history.py          who asked what, when, and what came of it
linearizability.py  whether calls could have happened one at a time, by any model
key_model.py        a key's and an alias's control plane, and a register, as such models
key_aspects.py      a key in part, where the whole is too much to search
currency.py         contract 2 across both planes
ciphertexts.py      every ciphertext decrypts, to the right plaintext
idempotency.py      one request id, one effect
secrets.py          no clear key material in what was sent or stored
check.py            all of them over one history
"""
