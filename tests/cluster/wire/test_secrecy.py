"""What may stand in a log line or a traceback: requests and answers, without what is secret in them."""

import msgspec
import pytest

from keycluster.cluster.wire import admin, operations

SECRET = "topsecret"


@pytest.mark.parametrize(
    "shape",
    [
        operations.EncryptRequest(key_id="k", plaintext=SECRET.encode()),
        operations.DecryptResponse(key_id="k", plaintext=SECRET.encode(), encryption_algorithm="SYMMETRIC_DEFAULT"),
        operations.GenerateDataKeyResponse(ciphertext_blob=b"", plaintext=SECRET.encode(), key_id="k"),
        operations.GenerateRandomResponse(plaintext=SECRET.encode()),
        admin.IssueJoinTokenResponse(token=SECRET, expires=0.0),
        admin.CreateAccessKeyResponse(access_key_id="AKIA", secret_access_key=SECRET, account="123456789012"),
    ],
    ids=lambda shape: type(shape).__name__,
)
def test_repr_has_no_secret(shape: msgspec.Struct) -> None:
    """Neither plaintext, nor data keys, nor what is shown once; alone and inside something else."""
    assert SECRET not in repr(shape)
    assert SECRET not in repr([shape])
    assert type(shape).__name__ in repr(shape)


def test_repr_shows_what_is_no_secret() -> None:
    """Names, texts and the sizes of bytes, without absent members."""
    request = operations.EncryptRequest(key_id="k", plaintext=b"four", encryption_context={"a": "b"})
    assert repr(request) == "EncryptRequest(key_id='k', plaintext=<4 bytes>, encryption_context={'a': 'b'})"
