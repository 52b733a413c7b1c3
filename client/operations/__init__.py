"""The operations, one method each, named as boto3 names them, with AWS's members in snake_case.

data.py     the data plane: encrypt, decrypt, data keys
keys.py     keys and their lives
labels.py   aliases, tags, policies
admin.py    the region itself
"""
