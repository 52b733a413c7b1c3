"""What a node can do: `table.py` lists every operation once, for both doors.

`data.py` holds the handlers that use keys, `reads.py` those that describe and list, `writes.py` those whose commands go
through the log.
"""
