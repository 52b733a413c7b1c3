"""Every ciphertext opens as what it was made from, with its own context, under its own key, for ever; nothing else.

Whether its key may be used when somebody asks is `currency.py`'s to judge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keycluster.simulations.checkers.history import Call, History, OutcomeKind
from keycluster.simulations.checkers.references import name_of
from keycluster.simulations.runs import Failure

CHECKER: Final = "ciphertexts"

INVALID_CIPHERTEXT: Final = "InvalidCiphertextException"
DATA_KEY_BYTES: Final = {"AES_256": 32, "AES_128": 16}

# Where a blob has what must never come twice (docs/formats.md, "Blob").
_RANDOM_PARTS: Final = {"salt": slice(35, 51), "nonce": slice(51, 63)}
_RANDOM_BYTES_MIN: Final = 16
"""Fewer random bytes may be the same by chance."""


@dataclass(slots=True)
class _Content:
    """What a blob was made from. Those that were re-encrypted share it."""

    plaintext: bytes | None
    """None: a data key that nobody has seen yet."""


@dataclass(frozen=True, slots=True)
class Known:
    """A blob that a client was given."""

    blob: bytes
    key: str
    context: Mapping[str, str]
    content: _Content
    call: Call


def check_ciphertexts(history: History) -> list[Failure]:
    """In the order of the answers, so that a blob is known before anybody can ask for it."""
    checker = _Ciphertexts()
    for call in sorted(history.calls, key=lambda call: call.ended):
        for complaint in checker.judge(call):
            checker.failures.append(Failure(CHECKER, f"{call.describe()}: {complaint}", call.returned_ns))
    return checker.failures


class _Ciphertexts:
    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self._known: dict[bytes, Known] = {}
        self._random: dict[tuple[str, bytes], Call] = {}

    def judge(self, call: Call) -> Iterable[str]:
        """What is wrong with an answer; also remembers the blob that it gives."""
        source = self._known.get(call.arguments.get("CiphertextBlob", b""))
        match call.operation, call.kind:
            case "Encrypt", OutcomeKind.OK:
                yield from self._given(call, _Content(call.arguments["Plaintext"]))
            case "GenerateDataKey", OutcomeKind.OK:
                yield from self._judge_size(call, call.value["Plaintext"])
                yield from self._fresh(call, "data key", call.value["Plaintext"])
                yield from self._given(call, _Content(call.value["Plaintext"]))
            case "GenerateDataKeyWithoutPlaintext", OutcomeKind.OK:
                yield from self._given(call, _Content(None))
            case "GenerateRandom", OutcomeKind.OK:
                yield from self._fresh(call, "random bytes", call.value["Plaintext"])
            case "ReEncrypt", OutcomeKind.OK:
                yield from self._judge_opened(call, source, "SourceKeyId", "SourceEncryptionContext")
                content = _Content(None) if source is None else source.content
                yield from self._given(call, content, "DestinationEncryptionContext")
            case "Decrypt", OutcomeKind.OK:
                yield from self._judge_opened(call, source, "KeyId", "EncryptionContext")
                yield from self._judge_plaintext(call, source)
            case "Decrypt" | "ReEncrypt", OutcomeKind.REFUSED if call.code == INVALID_CIPHERTEXT:
                yield from self._judge_unopened(call, source)

    def _given(self, call: Call, content: _Content, context: str = "EncryptionContext") -> Iterable[str]:
        blob = call.value["CiphertextBlob"]
        earlier = self._known.get(blob)
        if earlier is not None:
            yield f"the same ciphertext as #{earlier.call.number}"
        for part, where in _RANDOM_PARTS.items():
            yield from self._fresh(call, part, blob[where])
        key = name_of(call.value["KeyId"])
        self._known[blob] = Known(blob, key, _context(call, context), content, call)

    def _fresh(self, call: Call, what: str, random: bytes) -> Iterable[str]:
        """Bytes that no other answer may hold."""
        if what not in _RANDOM_PARTS and len(random) < _RANDOM_BYTES_MIN:
            return
        earlier = self._random.setdefault((what, random), call)
        if earlier is not call:
            yield f"the same {what} as #{earlier.number}"

    @staticmethod
    def _judge_size(call: Call, data_key: bytes) -> Iterable[str]:
        spec = call.arguments.get("KeySpec")
        size = DATA_KEY_BYTES[spec] if spec else call.arguments.get("NumberOfBytes")
        if len(data_key) != size:
            yield f"a data key of {len(data_key)} bytes, not {size}"

    @staticmethod
    def _judge_opened(call: Call, source: Known | None, key: str, context: str) -> Iterable[str]:
        if source is None:
            yield "opened what nobody was given"
        elif source.context != _context(call, context):
            yield f"opened with another context than #{source.call.number} was made with"
        elif name_of(call.value[key]) != source.key:
            yield f"opened under {name_of(call.value[key])} what #{source.call.number} made under {source.key}"

    @staticmethod
    def _judge_plaintext(call: Call, source: Known | None) -> Iterable[str]:
        if source is None:
            return
        content = source.content
        if content.plaintext is None:
            content.plaintext = call.value["Plaintext"]
        elif content.plaintext != call.value["Plaintext"]:
            yield f"another plaintext than #{source.call.number} was made from"

    @staticmethod
    def _judge_unopened(call: Call, source: Known | None) -> Iterable[str]:
        context = "EncryptionContext" if call.operation == "Decrypt" else "SourceEncryptionContext"
        if source is not None and source.context == _context(call, context):
            yield f"didn't open what #{source.call.number} made"


def _context(call: Call, member: str) -> Mapping[str, str]:
    """None and an empty one are the same."""
    context: Mapping[str, str] | Any = call.arguments.get(member)
    return context or {}
