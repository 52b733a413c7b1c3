"""Envelope encryption: data of any size under a data key of its own, which a KMS key wraps.

The messages are those of the AWS Encryption SDK, format version 2, so AWS's own SDKs read and write them too.

format.py      the header: what it says, how it is written and read, and every limit
keys.py        what is derived from a data key: message key, commitment, header authentication; the signature
encryptor.py   plaintext in, message out: no file, no network
decryptor.py   message in, authenticated plaintext out: no file, no network
streams.py     both, over files and with a region's keys: what `KeyClient` offers
"""
