"""Steps on the data plane: what uses keys, and what must not work."""

from typing import Final

from keycluster.client.envelope import streams
from keycluster.client.envelope.format import Suite
from keycluster.client.errors import KeyclusterError
from keycluster.cluster.wire import operations as wire
from keycluster.simulations.runs import Failure
from keycluster.simulations.workload.pool import Belief, KnownBlob, bare
from keycluster.simulations.workload.turns import Step, Turn

PLAINTEXT_BYTES: Final = (1, 16, 32, 200, 4_096)
CONTEXTS: Final = (
    {"tenant": "a"},
    {"tenant": "b"},
    {"table": "orders", "tenant": "a"},
    {"": "", "ü": "€"},
)
STRANGE_CONTEXT: Final = {"tenant": "somebody else"}
"""No step encrypts with it."""


def _context(turn: Turn) -> dict[str, str] | None:
    return turn.rng.choice(CONTEXTS) if turn.rng.random() < turn.plan.context_chance else None


def _usable_key(turn: Turn) -> str | None:
    """A key by one of its names: now and then one that is disabled."""
    beliefs = (Belief.ENABLED,) if turn.rng.random() < 0.85 else (Belief.DISABLED, Belief.PENDING)
    key = turn.pool.key(turn.rng, *beliefs)
    return None if key is None else turn.pool.reference(turn.rng, key, aliases=True)


async def encrypt(turn: Turn) -> None:
    key_id = _usable_key(turn)
    if key_id is not None:
        plaintext = turn.rng.randbytes(turn.rng.choice(PLAINTEXT_BYTES))
        request = wire.EncryptRequest(key_id=key_id, plaintext=plaintext, encryption_context=_context(turn))
        await turn.ask(request, at=turn.node())


async def generate_data_key(turn: Turn) -> None:
    key_id = _usable_key(turn)
    if key_id is not None:
        size = turn.rng.choice((None, 16, 64))
        spec = "AES_256" if size is None else None
        context = _context(turn)
        request = wire.GenerateDataKeyRequest(
            key_id=key_id, number_of_bytes=size, key_spec=spec, encryption_context=context
        )
        await turn.ask(request, at=turn.node())


async def generate_data_key_without_plaintext(turn: Turn) -> None:
    key_id = _usable_key(turn)
    if key_id is not None:
        request = wire.GenerateDataKeyWithoutPlaintextRequest(
            key_id=key_id, key_spec="AES_128", encryption_context=_context(turn)
        )
        await turn.ask(request, at=turn.node())


async def generate_random(turn: Turn) -> None:
    await turn.ask(wire.GenerateRandomRequest(number_of_bytes=32), at=turn.node())


async def decrypt(turn: Turn) -> None:
    known = turn.pool.blob(turn.rng, usable=turn.rng.random() < 0.85)
    if known is not None:
        await turn.ask(_opening(turn, known), at=turn.node())


def _opening(turn: Turn, known: KnownBlob) -> wire.DecryptRequest:
    """What opens it, with its key named or not."""
    key, key_id = turn.pool.find(known.key_id), None
    if key is not None and turn.rng.random() < 0.5:
        key_id = turn.pool.reference(turn.rng, key, aliases=True)
    return wire.DecryptRequest(ciphertext_blob=known.blob, encryption_context=known.context, key_id=key_id)


async def decrypt_wrongly(turn: Turn) -> None:
    """With another context, another key, or a byte changed."""
    known = turn.pool.blob(turn.rng, usable=True)
    if known is None:
        return
    blob, context, key_id = known.blob, known.context, None
    others = [key for key in turn.pool.keys if key.key_id != known.key_id]
    match turn.rng.choice(("context", "key", "byte")):
        case "key" if others:
            key_id = turn.rng.choice(others).key_id
        case "byte":
            at = turn.rng.randrange(len(blob))
            blob = blob[:at] + bytes((blob[at] ^ 1 << turn.rng.randrange(8),)) + blob[at + 1 :]
        case _:
            context = STRANGE_CONTEXT
    request = wire.DecryptRequest(ciphertext_blob=blob, encryption_context=context, key_id=key_id)
    await turn.ask(request, at=turn.node())


async def re_encrypt(turn: Turn) -> None:
    """Mostly to another key, and with another context."""
    known, destination = turn.pool.blob(turn.rng, usable=True), _usable_key(turn)
    if known is None or destination is None:
        return
    request = wire.ReEncryptRequest(
        ciphertext_blob=known.blob,
        source_encryption_context=known.context,
        source_key_id=turn.rng.choice((None, known.key_id)),
        destination_key_id=destination,
        destination_encryption_context=_context(turn),
    )
    await turn.ask(request, at=turn.node())


class _AskedInTurn:
    """What envelope encryption needs of a client; its calls go into the history like all others."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    async def generate_data_key(
        self, *, key_id: str, encryption_context: dict[str, str] | None = None, number_of_bytes: int | None = None
    ) -> wire.GenerateDataKeyResponse:
        request = wire.GenerateDataKeyRequest(
            key_id=key_id, encryption_context=encryption_context, number_of_bytes=number_of_bytes
        )
        answer = await self._turn.ask(request)
        if not isinstance(answer, wire.GenerateDataKeyResponse):
            raise _NoAnswer
        return answer

    async def decrypt(
        self,
        *,
        ciphertext_blob: bytes | None = None,
        encryption_context: dict[str, str] | None = None,
        key_id: str | None = None,
    ) -> wire.DecryptResponse:
        request = wire.DecryptRequest(
            ciphertext_blob=ciphertext_blob, encryption_context=encryption_context, key_id=key_id
        )
        answer = await self._turn.ask(request, at=self._turn.node())
        if not isinstance(answer, wire.DecryptResponse):
            raise _NoAnswer
        return answer


class _NoAnswer(Exception):
    """The history says what came instead."""


async def envelope(turn: Turn) -> None:
    """There and back: a message that opens as something else, or not at all, is a failure whatever nodes answered."""
    key_id = _usable_key(turn)
    if key_id is None:
        return
    keys, context = _AskedInTurn(turn), turn.rng.choice(CONTEXTS)
    plaintext = turn.rng.randbytes(turn.rng.choice(PLAINTEXT_BYTES))
    suite = Suite.SIGNED if turn.rng.random() < 0.2 else Suite.UNSIGNED  # A signature takes a millisecond.
    try:
        text = await streams.encrypt_text(
            keys,
            plaintext,
            key_id=key_id,
            encryption_context=context,
            suite=suite,
            surroundings=turn.caller.surroundings,
        )
        opened = await streams.decrypt_text(keys, text, encryption_context=context)
    except _NoAnswer:
        return
    except KeyclusterError as error:
        turn.shared.failures.append(
            Failure("envelope", f"a message under {bare(key_id)} doesn't open: {type(error).__name__}")
        )
        return
    if opened != plaintext:
        turn.shared.failures.append(Failure("envelope", f"a message under {bare(key_id)} opens as something else"))


DATA_STEPS: Final[dict[str, Step]] = {
    "encrypt": encrypt,
    "generate_data_key": generate_data_key,
    "generate_data_key_without_plaintext": generate_data_key_without_plaintext,
    "decrypt": decrypt,
    "decrypt_wrongly": decrypt_wrongly,
    "re_encrypt": re_encrypt,
    "envelope": envelope,
    "generate_random": generate_random,
}
