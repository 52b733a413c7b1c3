"""The two doors to a node: `native.py` (frames on TLS) and `aws.py` (HTTP, Signature Version 4)."""
