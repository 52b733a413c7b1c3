"""The errors a caller can get, by AWS's names.

KmsError
├── what the KMS model names: NotFoundException, DisabledException, KMSInvalidStateException, …
├── what every AWS service has: ValidationException, AccessDeniedException, ThrottlingException, …
└── retryable elsewhere, HTTP 500: KeyUnavailableException, DependencyTimeoutException, KMSInternalException

`message` goes to the caller, `detail` only to the node's log. Neither ever holds key material.
Source: the AWS KMS API Reference ("Errors" of each operation and "Common Errors").
"""

from typing import ClassVar


class KeyclusterError(Exception):
    """All that Keycluster's client raises on purpose: a node's refusals, and what the client itself finds."""


class KmsError(KeyclusterError):
    """An operation's refusal. `code` is what AWS calls it; `status` is the HTTP status of the AWS door.

    `retryable` says that the same request may be tried at another node at once; a change under the same request id, by
    which the region makes it once. `may_be_made` says what is known of that change until then.
    """

    code: ClassVar[str] = "KMSInternalException"
    status: ClassVar[int] = 400
    retryable: ClassVar[bool] = False
    may_be_made: ClassVar[bool] = False
    """Of a change: it may have been made, or may be made yet. All others promise that nothing was changed."""

    def __init__(self, message: str = "", *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def __repr__(self) -> str:
        return f"{self.code}({self.message!r})"


class AlreadyExistsException(KmsError):
    code = "AlreadyExistsException"


class ConflictException(KmsError):
    code = "ConflictException"


class DisabledException(KmsError):
    code = "DisabledException"


class DryRunOperationException(KmsError):
    """The request would have succeeded, but DryRun was set."""

    code = "DryRunOperationException"


class IncorrectKeyException(KmsError):
    code = "IncorrectKeyException"


class InvalidAliasNameException(KmsError):
    code = "InvalidAliasNameException"


class InvalidArnException(KmsError):
    code = "InvalidArnException"


class InvalidCiphertextException(KmsError):
    """A blob that doesn't parse or doesn't verify; AWS sends no message with it, and tells not which."""

    code = "InvalidCiphertextException"


class InvalidGrantTokenException(KmsError):
    code = "InvalidGrantTokenException"


class InvalidKeyUsageException(KmsError):
    code = "InvalidKeyUsageException"


class InvalidMarkerException(KmsError):
    code = "InvalidMarkerException"


class KMSInvalidStateException(KmsError):
    code = "KMSInvalidStateException"


class LimitExceededException(KmsError):
    code = "LimitExceededException"


class MalformedPolicyDocumentException(KmsError):
    code = "MalformedPolicyDocumentException"


class NotFoundException(KmsError):
    code = "NotFoundException"


class TagException(KmsError):
    code = "TagException"


class UnsupportedOperationException(KmsError):
    code = "UnsupportedOperationException"


class CustomKeyStoreNotFoundException(KmsError):
    code = "CustomKeyStoreNotFoundException"


class ValidationException(KmsError):
    code = "ValidationException"


class SerializationException(KmsError):
    code = "SerializationException"


class UnknownOperationException(KmsError):
    code = "UnknownOperationException"


class AccessDeniedException(KmsError):
    code = "AccessDeniedException"


class InvalidSignatureException(KmsError):
    code = "InvalidSignatureException"


class UnrecognizedClientException(KmsError):
    code = "UnrecognizedClientException"


class MissingAuthenticationTokenException(KmsError):
    code = "MissingAuthenticationTokenException"


class IncompleteSignatureException(KmsError):
    code = "IncompleteSignatureException"


class IdempotentParameterMismatchException(KmsError):
    """A request id came a second time with other parameters (security.md, 7)."""

    code = "IdempotentParameterMismatchException"


class ThrottlingException(KmsError):
    """A limit of this node or account was reached, and nothing was changed: try again later, or elsewhere."""

    code = "ThrottlingException"
    retryable = True


class KeyUnavailableException(KmsError):
    """This node can't know that it is current (no lease, sealed, starting): another one may."""

    code = "KeyUnavailableException"
    status = 500
    retryable = True


class DependencyTimeoutException(KmsError):
    """As KeyUnavailableException, for operations whose model doesn't list that one; also a write past its deadline,
    which may be in the log by then: nobody knows whether it was made."""

    code = "DependencyTimeoutException"
    status = 500
    retryable = True
    may_be_made = True


class KMSInternalException(KmsError):
    """As DependencyTimeoutException, for operations that list neither of the other two; also a fault of ours."""

    code = "KMSInternalException"
    status = 500
    retryable = True
    may_be_made = True


def _subclasses(of: type[KmsError]) -> list[type[KmsError]]:
    found = [of]
    for child in of.__subclasses__():
        found += _subclasses(child)
    return found


ERRORS: dict[str, type[KmsError]] = {error.code: error for error in _subclasses(KmsError)}
"""Every error by its code: what a client makes of a code that came over the wire."""


def error_of(code: str, message: str) -> KmsError:
    """The error a code names; an unknown one (from a newer node) is a KmsError with that code."""
    known = ERRORS.get(code)
    if known is not None:
        return known(message)
    error = KmsError(message)
    error.code = code  # type: ignore[misc]  # Shadows the class's for this one instance.
    return error
