"""Envelope encryption over files: whole round trips, what is refused, and that memory and the loop are spared."""

import base64
import hashlib
import io
import os
import tempfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from keycluster.client.envelope import streams
from keycluster.client.envelope.format import EncryptedDataKey, Suite, decode_header
from keycluster.client.errors import EnvelopeError, IncorrectKeyException, InvalidCiphertextException
from keycluster.cluster.wire.operations import DecryptResponse
from tests.client.local_keys import LocalKeys
from tests.client.loops import Run

FRAME = 4096
SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, streams.PORTION_BYTES + 17]
SUITES = [Suite.SIGNED, Suite.UNSIGNED]


async def make(
    keys: LocalKeys,
    plaintext: bytes,
    *,
    encryption_context: Mapping[str, str] | None = None,
    progress: streams.Progress | None = None,
) -> bytes:
    source, sink = io.BytesIO(plaintext), io.BytesIO()
    await streams.encrypt_stream(
        keys, source, sink, key_id=keys.arn, encryption_context=encryption_context, progress=progress
    )
    return sink.getvalue()


async def read(
    keys: LocalKeys,
    message: bytes,
    *,
    key_id: str | None = None,
    encryption_context: Mapping[str, str] | None = None,
    progress: streams.Progress | None = None,
) -> bytes:
    source, sink = io.BytesIO(message), io.BytesIO()
    await streams.decrypt_stream(
        keys, source, sink, key_id=key_id, encryption_context=encryption_context, progress=progress
    )
    return sink.getvalue()


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", SIZES)
def test_stream_of_any_size_comes_back(run: Run, keys: LocalKeys, size: int, suite: Suite) -> None:
    """What encrypt_stream writes, decrypt_stream reads, at and around every boundary of frames."""

    async def body() -> None:
        plaintext = os.urandom(size)
        sealed, opened = io.BytesIO(), io.BytesIO()
        context = {"file": "räksmörgås", "n": "1"}
        made = await streams.encrypt_stream(
            keys,
            io.BytesIO(plaintext),
            sealed,
            key_id=keys.arn,
            encryption_context=context,
            suite=suite,
            frame_bytes=FRAME,
        )
        message = sealed.getvalue()
        got = await streams.decrypt_stream(keys, io.BytesIO(message), opened)
        assert opened.getvalue() == plaintext
        assert made == got == streams.EnvelopeResult(keys.arn, context, suite, size, len(message))

    run(body)


def test_each_message_has_a_data_key_of_its_own(run: Run, keys: LocalKeys) -> None:
    """Equal plaintexts give unequal messages: no data key, message id or signature key is used twice."""

    async def body() -> None:
        first, second = await make(keys, b"same"), await make(keys, b"same")
        one, two = decode_header(first)[0], decode_header(second)[0]
        assert one.message_id != two.message_id
        assert one.commitment != two.commitment
        assert one.keys != two.keys
        assert one.context["aws-crypto-public-key"] != two.context["aws-crypto-public-key"]
        assert keys.calls == ["GenerateDataKey", "GenerateDataKey"]

    run(body)


def test_async_files_work_as_plain_ones_do(run: Run, keys: LocalKeys, tmp_path: Path) -> None:
    """anyio's files, plain files and raw unbuffered files can be mixed as source and sink."""

    async def body() -> None:
        plaintext = os.urandom(2 * streams.PORTION_BYTES + 5)
        plain, sealed, opened = tmp_path / "plain", tmp_path / "sealed", tmp_path / "opened"
        plain.write_bytes(plaintext)
        async with await anyio.open_file(plain, "rb") as source, await anyio.open_file(sealed, "wb") as sink:
            await streams.encrypt_stream(keys, source, sink, key_id=keys.arn)
        with sealed.open("rb", buffering=0) as source, opened.open("wb", buffering=0) as sink:
            await streams.decrypt_stream(keys, source, sink)
        assert opened.read_bytes() == plaintext
        async with await anyio.open_file(sealed, "rb") as source:
            in_memory = io.BytesIO()
            await streams.decrypt_stream(keys, source, in_memory)
        assert in_memory.getvalue() == plaintext

    run(body)


class Dribble:
    """Gives and takes a few bytes at a time, as pipes may."""

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self.content = bytearray(content)
        self.taken = bytearray()

    def read(self, count: int) -> bytes:
        part, self.content = bytes(self.content[: min(count, 7)]), self.content[7:]
        return part

    def write(self, content: bytes) -> int:
        self.taken += content[:5]
        return min(len(content), 5)


def test_files_that_give_and_take_little_lose_nothing(run: Run, keys: LocalKeys) -> None:
    """Short reads and short writes are gone on with, not taken for the end."""

    async def body() -> None:
        sink = Dribble()
        await streams.encrypt_stream(keys, Dribble(b"x" * 50), sink, key_id=keys.arn, frame_bytes=16)
        back = Dribble()
        await streams.decrypt_stream(keys, Dribble(sink.taken), back)
        assert back.taken == b"x" * 50

    run(body)


def test_text_file_as_source_is_refused(run: Run, keys: LocalKeys) -> None:
    """A file opened in text mode is a TypeError that says what to do."""

    async def body() -> None:
        with pytest.raises(TypeError, match="binary"):
            await streams.encrypt_stream(keys, io.StringIO("text"), io.BytesIO(), key_id=keys.arn)  # type: ignore[arg-type]  # That is the point.

    run(body)


def test_progress_counts_up_to_the_whole_source(run: Run, keys: LocalKeys) -> None:
    """The callback gets the bytes read so far, rising, the whole length last, in both directions."""

    async def body() -> None:
        seen: list[int] = []
        message = await make(keys, bytes(2 * streams.PORTION_BYTES + 1), progress=seen.append)
        assert seen == [streams.PORTION_BYTES, 2 * streams.PORTION_BYTES, 2 * streams.PORTION_BYTES + 1]
        seen.clear()
        await read(keys, message, progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == len(message)

    run(body)


def test_required_context_that_the_message_lacks_is_refused(run: Run, keys: LocalKeys) -> None:
    """Pairs given to decrypt_stream must be in the message; others may be there too. The KMS isn't even asked."""

    async def body() -> None:
        message = await make(keys, b"text", encryption_context={"a": "1", "b": "2"})
        assert await read(keys, message, encryption_context={"a": "1"}) == b"text"
        keys.calls.clear()
        for wrong in ({"a": "2"}, {"c": ""}):
            with pytest.raises(EnvelopeError, match="lacks"):
                await read(keys, message, encryption_context=wrong)
        assert keys.calls == []

    run(body)


def test_reserved_names_in_the_context_are_refused(run: Run, keys: LocalKeys) -> None:
    """A caller can't put a public key of its own into the context."""

    async def body() -> None:
        with pytest.raises(EnvelopeError, match="aws-crypto-"):
            await make(keys, b"", encryption_context={"aws-crypto-public-key": "x"})
        with pytest.raises(EnvelopeError, match="surrogate"):
            await make(keys, b"", encryption_context={"a": "\ud800"})

    run(body)


def test_only_the_named_key_is_tried(run: Run, keys: LocalKeys) -> None:
    """With key_id, data keys under other keys are left alone; a key id alone names the same key as its ARN."""

    async def body() -> None:
        message = await make(keys, b"text")
        assert await read(keys, message, key_id=keys.arn) == b"text"
        assert await read(keys, message, key_id=keys.arn.rpartition("/")[2]) == b"text"
        keys.calls.clear()
        with pytest.raises(EnvelopeError, match="no data key"):
            await read(keys, message, key_id=keys.other_arn)
        assert keys.calls == []

    run(body)


def with_keys(message: bytes, *entries: EncryptedDataKey) -> bytes:
    """The message with other encrypted data keys; its header no longer verifies."""
    header, count = decode_header(message)
    changed = type(header)(
        header.suite,
        header.message_id,
        header.context,
        entries,
        header.content_type,
        header.frame_bytes,
        header.commitment,
    )
    return changed.encode() + message[count:]


def test_refusal_of_the_kms_is_raised_as_it_is(run: Run, keys: LocalKeys) -> None:
    """What Decrypt answers reaches the caller; of several refusals the first, with notes of the others."""

    async def body() -> None:
        message = await make(keys, b"text")
        entry = decode_header(message)[0].keys[0]
        swapped = EncryptedDataKey(b"aws-kms", keys.other_arn.encode(), entry.ciphertext)
        damaged = EncryptedDataKey(b"aws-kms", keys.arn.encode(), b"x" * 60)
        foreign = EncryptedDataKey(b"raw", b"x", b"y")
        with pytest.raises(IncorrectKeyException):
            await read(keys, with_keys(message, swapped))
        with pytest.raises(InvalidCiphertextException) as caught:
            await read(keys, with_keys(message, foreign, damaged, swapped))
        assert "IncorrectKey" in caught.value.__notes__[0]
        with pytest.raises(EnvelopeError, match="no data key"):
            await read(keys, with_keys(message, foreign))

    run(body)


def test_later_data_key_opens_the_message(run: Run, keys: LocalKeys) -> None:
    """A message with several data keys opens with the first that can be unwrapped; its header must still verify."""

    async def body() -> None:
        message = await make(keys, b"text")
        entry = decode_header(message)[0].keys[0]
        damaged = EncryptedDataKey(b"aws-kms", keys.arn.encode(), b"x" * 60)
        with pytest.raises(EnvelopeError, match="verify"):  # Unwrapped by the second; changed under the tag.
            await read(keys, with_keys(message, damaged, entry))
        assert keys.calls[-2:] == ["Decrypt", "Decrypt"]

    run(body)


@pytest.mark.parametrize("suite", SUITES)
def test_text_form_comes_back(run: Run, keys: LocalKeys, suite: Suite) -> None:
    """encrypt_text gives Base64 of a message that the stream functions read too, and decrypt_text reads theirs."""

    async def body() -> None:
        text = await streams.encrypt_text(keys, b"secret", key_id=keys.arn, suite=suite, encryption_context={"a": "b"})
        assert text.isascii()
        assert await streams.decrypt_text(keys, text, encryption_context={"a": "b"}) == b"secret"
        assert await read(keys, base64.b64decode(text)) == b"secret"
        long = os.urandom(300_000)
        assert await streams.decrypt_text(keys, base64.b64encode(await make(keys, long)).decode()) == long

    run(body)


def test_text_that_is_not_exactly_one_message_is_refused(run: Run, keys: LocalKeys) -> None:
    """Other Base64, cut, longer or altered text is an EnvelopeError: one text per message."""

    async def body() -> None:
        text = await streams.encrypt_text(keys, b"secret", key_id=keys.arn)
        bad = ["", "AA", "ä", text[:-4], text + "\n", text + "AAAA", text[:100] + "\n" + text[100:], "B" + text[1:]]
        for wrong in bad:
            with pytest.raises(EnvelopeError):
                await streams.decrypt_text(keys, wrong)

    run(body)


def test_loop_runs_on_while_a_file_is_encrypted(run: Run, keys: LocalKeys) -> None:
    """Other tasks get their turns while portions are read, encrypted and written."""

    async def body() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        class Slow:
            def write(self, content: bytes) -> int:
                before = turns
                while turns == before:  # Ends only if the loop runs beside this thread.
                    pass
                return len(content)

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            sink = Slow()
            await streams.encrypt_stream(keys, io.BytesIO(bytes(3 * streams.PORTION_BYTES)), sink, key_id=keys.arn)
            group.cancel_scope.cancel()

    run(body)


def test_memory_stays_flat_with_large_files(run: Run, keys: LocalKeys) -> None:
    """A file of 32 MiB takes a few portions of memory, both ways."""

    async def body() -> None:
        size = 32 * 1024 * 1024
        with tempfile.TemporaryDirectory() as folder:
            plain, sealed, opened = (Path(folder) / name for name in ("plain", "sealed", "opened"))
            with plain.open("wb") as file:
                for number in range(size // streams.PORTION_BYTES):
                    file.write(bytes([number]) * streams.PORTION_BYTES)
            tracemalloc.start()
            with plain.open("rb") as source, sealed.open("wb") as sink:
                await streams.encrypt_stream(keys, source, sink, key_id=keys.arn)
            with sealed.open("rb") as source, opened.open("wb") as sink:
                await streams.decrypt_stream(keys, source, sink)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 12 * streams.PORTION_BYTES
            digests = [hashlib.file_digest(path.open("rb"), "sha256").digest() for path in (plain, opened)]
            assert digests[0] == digests[1]

    run(body)


def test_text_with_stray_bits_is_refused(run: Run, keys: LocalKeys) -> None:
    """Base64's last character can carry bits that mean nothing: only the spelling that encrypt_text makes is read."""

    async def body() -> None:
        text = await streams.encrypt_text(keys, b"x", key_id=keys.arn, suite=Suite.UNSIGNED)
        while not text.endswith("="):
            text = await streams.encrypt_text(keys, os.urandom(len(text) % 7), key_id=keys.arn, suite=Suite.UNSIGNED)
        at = text.index("=") - 1
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        changed = text[:at] + alphabet[alphabet.index(text[at]) + 1] + text[at + 1 :]
        assert base64.b64decode(changed) == base64.b64decode(text)
        with pytest.raises(EnvelopeError, match="as it is written"):
            await streams.decrypt_text(keys, changed)

    run(body)


class KeysThatNameAnother(LocalKeys):
    """Opens what it wrapped, and says that it was under another key."""

    async def decrypt(
        self,
        *,
        ciphertext_blob: bytes | None = None,
        encryption_context: dict[str, str] | None = None,
        key_id: str | None = None,
    ) -> DecryptResponse:
        answer = await super().decrypt(
            ciphertext_blob=ciphertext_blob, encryption_context=encryption_context, key_id=key_id
        )
        return msgspec.structs.replace(answer, key_id=self.other_arn)


def test_node_that_opens_under_another_key_is_not_believed(run: Run) -> None:
    """The ARN in the result is the one that the message names: an answer under another key is an error."""

    async def body() -> None:
        keys = KeysThatNameAnother()
        message = await make(keys, b"text")
        with pytest.raises(EnvelopeError, match="was opened under"):
            await read(keys, message)

    run(body)
