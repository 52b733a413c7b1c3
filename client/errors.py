"""What a call of the client can raise.

KeyclusterError              either of the two
├── KmsError                 a node's refusal, by AWS's names (cluster/wire/errors.py): NotFoundException, …
└── KeyClientError           what the client itself finds
    ├── DeadlineExceeded     no answer in the caller's time (also a TimeoutError); a change may have been made
    ├── NodesUnreachable     no node of the region could be reached in the caller's time (also a ConnectionError)
    ├── RequestTooLarge      a request that no node takes (also a ValueError): nothing was sent
    ├── NodeNotTrusted       who answered could not prove to be the node we meant: nothing was sent to it
    ├── ClientClosed         the client was used outside its `async with`
    └── EnvelopeError        a message that isn't one, isn't whole, or doesn't verify

An answer is never hidden: where a deadline ends a row of retries, the last refusal is raised, not the deadline.
"""

from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    AlreadyExistsException,
    ConflictException,
    CustomKeyStoreNotFoundException,
    DependencyTimeoutException,
    DisabledException,
    DryRunOperationException,
    IdempotentParameterMismatchException,
    IncompleteSignatureException,
    IncorrectKeyException,
    InvalidAliasNameException,
    InvalidArnException,
    InvalidCiphertextException,
    InvalidGrantTokenException,
    InvalidKeyUsageException,
    InvalidMarkerException,
    InvalidSignatureException,
    KeyclusterError,
    KeyUnavailableException,
    KmsError,
    KMSInternalException,
    KMSInvalidStateException,
    LimitExceededException,
    MalformedPolicyDocumentException,
    MissingAuthenticationTokenException,
    NotFoundException,
    SerializationException,
    TagException,
    ThrottlingException,
    UnknownOperationException,
    UnrecognizedClientException,
    UnsupportedOperationException,
    ValidationException,
)


class KeyClientError(KeyclusterError):
    """What the client itself found; a node's refusals are `KmsError`."""


class DeadlineExceeded(KeyClientError, TimeoutError):
    """No answer came within the caller's time. A change may have been made, or may be made yet.

    A change called again gets a new request id, so it counts as a second change: look before you repeat.
    """


class NodesUnreachable(KeyClientError, ConnectionError):
    """No node of the region could be reached within the caller's time; the request was sent to none."""


class RequestTooLarge(KeyClientError, ValueError):
    """The request doesn't fit into a frame; no operation's request within AWS's limits is that long."""


class NodeNotTrusted(KeyClientError):
    """Who answered at a node's address doesn't know our secret, or is another node: nothing was asked of it."""


class ClientClosed(KeyClientError):
    """The client is used before `async with` was entered, or after it was left."""


class EnvelopeError(KeyClientError):
    """Not a message of this format, not a whole one, or one that doesn't verify: discard what was written of it."""


__all__ = [
    "AccessDeniedException",
    "AlreadyExistsException",
    "ClientClosed",
    "ConflictException",
    "CustomKeyStoreNotFoundException",
    "DeadlineExceeded",
    "DependencyTimeoutException",
    "DisabledException",
    "DryRunOperationException",
    "EnvelopeError",
    "IdempotentParameterMismatchException",
    "IncompleteSignatureException",
    "IncorrectKeyException",
    "InvalidAliasNameException",
    "InvalidArnException",
    "InvalidCiphertextException",
    "InvalidGrantTokenException",
    "InvalidKeyUsageException",
    "InvalidMarkerException",
    "InvalidSignatureException",
    "KMSInternalException",
    "KMSInvalidStateException",
    "KeyClientError",
    "KeyUnavailableException",
    "KeyclusterError",
    "KmsError",
    "LimitExceededException",
    "MalformedPolicyDocumentException",
    "MissingAuthenticationTokenException",
    "NodeNotTrusted",
    "NodesUnreachable",
    "NotFoundException",
    "RequestTooLarge",
    "SerializationException",
    "TagException",
    "ThrottlingException",
    "UnknownOperationException",
    "UnrecognizedClientException",
    "UnsupportedOperationException",
    "ValidationException",
]
