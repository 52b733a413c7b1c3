"""Makes a message: plaintext in, in any portions; message out."""

import struct
from collections.abc import Mapping

from keycluster.client.envelope.format import (
    FRAME_BYTES_MAX,
    FRAMES_MAX,
    LAST_FRAME,
    MESSAGE_ID_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    ContentType,
    EncryptedDataKey,
    Header,
    Suite,
    frame_aad,
    frame_nonce,
    last_frame_aad,
)
from keycluster.client.envelope.keys import MessageKeys, Signer
from keycluster.client.errors import EnvelopeError

_FRAME_OVERHEAD = 4 + NONCE_BYTES + TAG_BYTES  # Sequence number ‖ nonce ‖ … ‖ tag.


class MessageEncryptor:
    """`header`, then `update` as often as there is plaintext, then `finish`: joined, that is the message.

    Holds less than a frame of plaintext between calls. Not for use by two threads at once.
    """

    def __init__(
        self,
        *,
        suite: Suite,
        data_key: bytes,
        encrypted_data_keys: tuple[EncryptedDataKey, ...],
        context: Mapping[str, str],
        signer: Signer | None,
        message_id: bytes,
        frame_bytes: int,
    ) -> None:
        """`message_id` is 32 fresh random bytes. `signer` is given with the signed suite, its key in `context`."""
        if not 0 < frame_bytes <= FRAME_BYTES_MAX:
            raise EnvelopeError(f"a frame has 1 to {FRAME_BYTES_MAX} bytes, not {frame_bytes}")
        if (signer is not None) != (suite is Suite.SIGNED) or len(message_id) != MESSAGE_ID_BYTES:
            raise EnvelopeError("the signed suite needs a signer, the other has none, and a message id has 32 bytes")
        keys = MessageKeys(data_key=data_key, suite=suite, message_id=message_id)
        header = Header(
            suite, message_id, context, encrypted_data_keys, ContentType.FRAMED, frame_bytes, keys.commitment
        )
        body = header.encode()
        self.header = body + keys.header_tag(body)
        self._aead = keys.aead
        self._message_id = message_id
        self._frame_bytes = frame_bytes
        self._signer = signer
        self._rest = b""
        self._sequence = 0
        if signer is not None:
            signer.update(self.header)

    def update(self, plaintext: bytes) -> bytearray:
        """The frames that are full with this much more plaintext; what is left over waits for the next call."""
        content = self._rest + plaintext if self._rest else plaintext
        count = len(content) // self._frame_bytes
        if self._sequence + count >= FRAMES_MAX:
            raise EnvelopeError(f"a message has at most {FRAMES_MAX} frames: choose longer ones")
        encrypted = bytearray(count * (self._frame_bytes + _FRAME_OVERHEAD))
        with memoryview(content) as source, memoryview(encrypted) as target:
            for index in range(count):
                self._frame(
                    source[index * self._frame_bytes :], target[index * (self._frame_bytes + _FRAME_OVERHEAD) :]
                )
        self._rest = content[count * self._frame_bytes :]
        if self._signer is not None:
            self._signer.update(encrypted)
        return encrypted

    def _frame(self, source: memoryview, target: memoryview) -> None:
        self._sequence += 1
        nonce = frame_nonce(self._sequence)
        target[:4] = nonce[-4:]
        target[4:16] = nonce
        self._aead.encrypt_into(
            nonce,
            source[: self._frame_bytes],
            frame_aad(self._message_id, self._sequence, self._frame_bytes),
            target[16 : 16 + self._frame_bytes + TAG_BYTES],
        )

    def finish(self) -> bytes:
        """The last frame, which may be empty, and the signature."""
        self._sequence += 1
        nonce = frame_nonce(self._sequence)
        aad = last_frame_aad(self._message_id, self._sequence, len(self._rest))
        frame = b"".join(
            [
                LAST_FRAME,
                nonce[-4:],
                nonce,
                struct.pack(">I", len(self._rest)),
                self._aead.encrypt(nonce, self._rest, aad),
            ]
        )
        self._rest = b""
        if self._signer is None:
            return frame
        self._signer.update(frame)
        return frame + self._signer.footer()
