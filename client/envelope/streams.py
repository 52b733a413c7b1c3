"""Encrypts and decrypts files of any size with data keys of a region: memory stays flat, the event loop stays free.

Each message has a data key of its own, made by GenerateDataKey and kept nowhere. The work goes to worker threads in
portions of `PORTION_BYTES`, where plain files are read and written too; async files are awaited between the portions.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from keycluster.client.envelope.decryptor import FRAME_BYTES_MAX_DEFAULT, BodyReader, HeaderReader
from keycluster.client.envelope.encryptor import MessageEncryptor
from keycluster.client.envelope.files import AsyncSink, AsyncSource, Opened, Sink, Source, in_thread
from keycluster.client.envelope.format import (
    FRAME_BYTES_DEFAULT,
    MESSAGE_ID_BYTES,
    PROVIDER,
    PUBLIC_KEY_NAME,
    RESERVED_PREFIX,
    EncryptedDataKey,
    Header,
    Suite,
)
from keycluster.client.envelope.keys import DATA_KEY_BYTES, Signer
from keycluster.client.errors import EnvelopeError, KmsError
from keycluster.client.surroundings import REAL, Surroundings
from keycluster.cluster.wire.operations import DecryptResponse, GenerateDataKeyResponse

PORTION_BYTES = 1024 * 1024  # A thread hop costs 0.1 ms; a portion takes 1.5 ms, or 0.3 ms without a signature.

Progress = Callable[[int], None]
"""Called on the event loop with the bytes read from the source so far, after each portion."""


class DataKeys(Protocol):
    """What the envelope needs of a client."""

    async def generate_data_key(
        self, *, key_id: str, encryption_context: dict[str, str] | None = None, number_of_bytes: int | None = None
    ) -> GenerateDataKeyResponse: ...

    async def decrypt(
        self,
        *,
        ciphertext_blob: bytes | None = None,
        encryption_context: dict[str, str] | None = None,
        key_id: str | None = None,
    ) -> DecryptResponse: ...


@dataclass(frozen=True, slots=True)
class EnvelopeResult:
    """What was done, once all of it is written and, on the way back, verified."""

    key_id: str
    """The ARN of the KMS key that wraps the message's data key."""
    encryption_context: Mapping[str, str]
    """Without what the format adds."""
    suite: Suite
    plaintext_bytes: int
    message_bytes: int


async def encrypt_stream(
    keys: DataKeys,
    source: Source | AsyncSource,
    sink: Sink | AsyncSink,
    *,
    key_id: str,
    encryption_context: Mapping[str, str] | None = None,
    suite: Suite = Suite.SIGNED,
    frame_bytes: int = FRAME_BYTES_DEFAULT,
    progress: Progress | None = None,
    surroundings: Surroundings = REAL,
) -> EnvelopeResult:
    """Reads `source` to its end and writes it as one message. Raises as `generate_data_key` and the files do."""
    context = _own_context(encryption_context)
    encryptor, key_arn = await _start_message(
        keys, key_id, context, suite=Suite(suite), frame_bytes=frame_bytes, surroundings=surroundings
    )
    copy = _Copy(Opened(source, "read"), Opened(sink, "write"), progress)
    await copy.write(encryptor.header)
    await copy.run(encryptor.update)
    await copy.write(await in_thread(encryptor.finish))
    return EnvelopeResult(key_arn, context, Suite(suite), copy.bytes_read, copy.bytes_written)


async def decrypt_stream(
    keys: DataKeys,
    source: Source | AsyncSource,
    sink: Sink | AsyncSink,
    *,
    key_id: str | None = None,
    encryption_context: Mapping[str, str] | None = None,
    frame_bytes_max: int = FRAME_BYTES_MAX_DEFAULT,
    progress: Progress | None = None,
) -> EnvelopeResult:
    """Reads one message to the end of `source` and writes its text, each frame once it is authenticated.

    When this raises, discard what was written: the signature comes last, and an attacker may have cut the message.
    With `key_id` no other key's data key is tried; of `encryption_context` each pair must be in the message's.
    Raises `EnvelopeError` for a message that isn't whole or doesn't verify, and the `KmsError` of `decrypt`.
    """
    copy = _Copy(Opened(source, "read"), Opened(sink, "write"), progress)
    reader = HeaderReader()
    while (header := reader.feed(portion := await copy.read())) is None:
        if not portion:
            reader.finish()
    _check_context(header, encryption_context)
    data_key, key_arn = await _unwrap(keys, header, key_id)
    body = await in_thread(lambda: reader.unlock(data_key, frame_bytes_max=frame_bytes_max))
    await copy.write(await in_thread(lambda: body.feed(b"")))
    await copy.run(body.feed)
    body.finish()
    context = {name: value for name, value in header.context.items() if name != PUBLIC_KEY_NAME}
    return EnvelopeResult(key_arn, context, header.suite, copy.bytes_written, copy.bytes_read)


async def encrypt_text(
    keys: DataKeys,
    plaintext: bytes,
    *,
    key_id: str,
    encryption_context: Mapping[str, str] | None = None,
    suite: Suite = Suite.SIGNED,
    surroundings: Surroundings = REAL,
) -> str:
    """The message that `encrypt_stream` makes, as Base64 text: encrypted data key and data together."""
    context = _own_context(encryption_context)
    encryptor, _ = await _start_message(
        keys, key_id, context, suite=Suite(suite), frame_bytes=FRAME_BYTES_DEFAULT, surroundings=surroundings
    )
    message = encryptor.header + encryptor.update(plaintext) + encryptor.finish()
    return base64.b64encode(message).decode()


async def decrypt_text(
    keys: DataKeys,
    text: str,
    *,
    key_id: str | None = None,
    encryption_context: Mapping[str, str] | None = None,
) -> bytes:
    """The plaintext of what `encrypt_text` made; arguments and errors as with `decrypt_stream`."""
    try:
        message = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EnvelopeError("the text is not Base64") from None
    if base64.b64encode(message).decode() != text:  # Two texts for one message would be told apart by no signature.
        raise EnvelopeError("the text is not Base64 as it is written")
    reader = HeaderReader()
    header = reader.feed(message)
    if header is None:
        raise EnvelopeError("the message ends too early")
    _check_context(header, encryption_context)
    data_key, _ = await _unwrap(keys, header, key_id)
    body: BodyReader = reader.unlock(data_key, frame_bytes_max=max(len(message), header.frame_bytes))
    plaintext = body.feed(b"")
    body.finish()
    return plaintext


class _Copy:
    """Moves portions from a source through a step into a sink: in one thread hop where both files are plain."""

    def __init__(self, source: Opened, sink: Opened, progress: Progress | None) -> None:
        self._source = source
        self._sink = sink
        self._progress = progress
        self.bytes_read = 0
        self.bytes_written = 0

    async def run(self, step: Callable[[bytes], bytes | bytearray]) -> None:
        """Until the source ends."""
        one_hop = not (self._source.is_async or self._sink.is_async)
        move: Callable[[], Awaitable[bool]] = self._move_in_thread(step) if one_hop else self._move_awaiting(step)
        while await move():
            self._report()

    def _move_in_thread(self, step: Callable[[bytes], bytes | bytearray]) -> Callable[[], Awaitable[bool]]:
        def work() -> bool:
            portion = self._source.read_blocking(PORTION_BYTES)
            self.bytes_read += len(portion)
            made = step(portion) if portion else b""
            self._sink.write_blocking(made)
            self.bytes_written += len(made)
            return bool(portion)

        return lambda: in_thread(work)

    def _move_awaiting(self, step: Callable[[bytes], bytes | bytearray]) -> Callable[[], Awaitable[bool]]:
        async def move() -> bool:
            portion = await self._read()
            if portion:
                await self.write(await in_thread(lambda: step(portion)))
            return bool(portion)

        return move

    async def read(self) -> bytes:
        """A portion outside `run`; empty at the end."""
        portion = await self._read()
        self._report()
        return portion

    async def _read(self) -> bytes:
        if self._source.is_async:
            portion = await self._source.read(PORTION_BYTES)
        else:
            portion = await in_thread(lambda: self._source.read_blocking(PORTION_BYTES))
        self.bytes_read += len(portion)
        return portion

    async def write(self, content: bytes | bytearray) -> None:
        if self._sink.is_async:
            await self._sink.write(content)
        else:
            await in_thread(lambda: self._sink.write_blocking(content))
        self.bytes_written += len(content)

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self.bytes_read)


def _own_context(given: Mapping[str, str] | None) -> dict[str, str]:
    context = dict(given or {})
    for name in context:
        if name.startswith(RESERVED_PREFIX):
            raise EnvelopeError(f"names that start with {RESERVED_PREFIX} are kept for the format: {name}")
    return context


async def _start_message(
    keys: DataKeys,
    key_id: str,
    context: dict[str, str],
    *,
    suite: Suite,
    frame_bytes: int,
    surroundings: Surroundings,
) -> tuple[MessageEncryptor, str]:
    """An encryptor under a fresh data key, and the ARN of the KMS key that wraps it."""
    signer = Signer(surroundings.new_signing_key()) if suite is Suite.SIGNED else None
    whole_context = context if signer is None else {**context, PUBLIC_KEY_NAME: signer.public_key}
    made = await keys.generate_data_key(
        key_id=key_id, encryption_context=whole_context or None, number_of_bytes=DATA_KEY_BYTES
    )
    encryptor = MessageEncryptor(
        suite=suite,
        data_key=made.plaintext,
        encrypted_data_keys=(EncryptedDataKey(PROVIDER, made.key_id.encode(), made.ciphertext_blob),),
        context=whole_context,
        signer=signer,
        message_id=surroundings.random_bytes(MESSAGE_ID_BYTES),
        frame_bytes=frame_bytes,
    )
    return encryptor, made.key_id


def _check_context(header: Header, required: Mapping[str, str] | None) -> None:
    for name, value in (required or {}).items():
        if header.context.get(name) != value:
            raise EnvelopeError(f"the message's encryption context lacks the required pair for {name!r}")


async def _unwrap(keys: DataKeys, header: Header, key_id: str | None) -> tuple[bytes, str]:
    """The first data key that a node opens, and its KMS key's ARN. Raises the first refusal if none opens.

    A node opens a blob only under the KMS key that the message names beside it: a swapped pair is refused.
    """
    refusals: list[KmsError] = []
    for arn, blob in _candidates(header, key_id):
        try:
            opened = await keys.decrypt(
                ciphertext_blob=blob, encryption_context=dict(header.context) or None, key_id=arn
            )
        except KmsError as refusal:
            refusals.append(refusal)
            continue
        if opened.key_id != arn:
            raise EnvelopeError(f"the data key was opened under {opened.key_id}, not {arn}")
        return opened.plaintext, arn
    if refusals:
        for other in refusals[1:]:
            refusals[0].add_note(f"another data key of the message: {other!r}")
        raise refusals[0]
    raise EnvelopeError(f"no data key of the message is from {key_id or 'a KMS key'}")


def _candidates(header: Header, key_id: str | None) -> list[tuple[str, bytes]]:
    found = []
    for key in header.keys:
        if key.provider != PROVIDER:
            continue
        try:
            arn = key.provider_info.decode()
        except UnicodeDecodeError:
            continue
        if key_id is None or key_id in (arn, arn.rpartition(":key/")[2]):
            found.append((arn, key.ciphertext))
    return found
