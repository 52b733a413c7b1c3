"""What all clients of a run know together: keys, ciphertexts, aliases, and what they believe of them.

Beliefs only make choices likelier to meet something: nothing is judged by them. They come from answers as they arrive,
so two changes under way at once may leave a wrong one.
"""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.operations import Shape

REPEATS_KEPT: Final = 24
"""Changes that may be asked again. A region remembers them for ten minutes, a run's last few are far younger."""


class Belief(Enum):
    """How a key was when it was last heard of."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    PENDING = "pending deletion"


@dataclass(slots=True)
class KnownKey:
    """A key that some client has been told of."""

    key_id: str
    arn: str
    belief: Belief = Belief.ENABLED

    def alias_arn(self, alias: str) -> str:
        """Aliases live beside keys, in the same account and region."""
        return f"{self.arn.rpartition(':')[0]}:{alias}"


@dataclass(frozen=True, slots=True)
class KnownBlob:
    """A ciphertext that was answered, and with what it opens."""

    blob: bytes = field(repr=False)
    key_id: str
    context: dict[str, str] | None


@dataclass(slots=True)
class Change:
    """A change that was asked for, with whatever outcome: asked again under the same id it is the same change."""

    door: str
    """Its kind."""
    request: Shape
    request_id: bytes
    is_made: bool = False
    """Whether an answer has said so."""


class Pool:
    """One run's. `aliases`: the names that clients use."""

    def __init__(self, aliases: tuple[str, ...]) -> None:
        self.aliases = aliases
        self.targets: dict[str, str] = {}
        """Key ids by alias, as far as it is believed to exist."""
        self.keys: list[KnownKey] = []
        self.blobs: list[KnownBlob] = []
        self.changes: deque[Change] = deque(maxlen=REPEATS_KEPT)
        self.creating = 0
        """CreateKey calls under way."""
        self._by_id: dict[str, KnownKey] = {}
        self._key_of_blob: dict[bytes, str] = {}

    # Choosing.

    def key(self, rng: random.Random, *beliefs: Belief) -> KnownKey | None:
        """One that is believed to be so, if there is any; else any; None if there are no keys yet."""
        fit = [key for key in self.keys if key.belief in beliefs]
        return rng.choice(fit or self.keys) if self.keys else None

    def find(self, key_id: str) -> KnownKey | None:
        return self._by_id.get(key_id)

    def blob(self, rng: random.Random, *, usable: bool) -> KnownBlob | None:
        """`usable`: of a key believed to be enabled, if there are any."""
        if not self.blobs:
            return None
        chosen = rng.choice(self.blobs)
        if usable:
            for _ in range(4):
                key = self._by_id.get(chosen.key_id)
                if key is not None and key.belief is Belief.ENABLED:
                    break
                chosen = rng.choice(self.blobs)
        return chosen

    def reference(self, rng: random.Random, key: KnownKey, *, aliases: bool) -> str:
        """A way to name the key: by id, ARN, or an alias that is believed to point at it."""
        names = [alias for alias, target in self.targets.items() if target == key.key_id] if aliases else []
        if names and rng.random() < 0.5:
            alias = rng.choice(names)
            return rng.choice((alias, key.alias_arn(alias)))
        return rng.choice((key.key_id, key.arn))

    # What a call is about.

    @contextmanager
    def expecting(self, request: Shape) -> Iterator[None]:
        """Around a call: keys that are about to be there count already."""
        is_creation = isinstance(request, wire.CreateKeyRequest)
        self.creating += is_creation
        try:
            yield
        finally:
            self.creating -= is_creation

    def about(self, request: Shape) -> str | None:
        """What partitions a history (`Call.key`): a key's id or an alias."""
        match request:
            case wire.CreateAliasRequest() | wire.UpdateAliasRequest() | wire.DeleteAliasRequest():
                return request.alias_name
            case wire.DecryptRequest():
                return self._key_of_blob.get(request.ciphertext_blob or b"") or bare(request.key_id)
            case wire.ReEncryptRequest():
                return bare(request.destination_key_id)
            case _:
                return bare(getattr(request, "key_id", None))

    # Learning.

    def learn(self, request: Shape, response: Shape) -> str | None:
        """Takes note of an answer. Returns the id of the key that it created, if it did."""
        match request, response:
            case wire.CreateKeyRequest(), wire.CreateKeyResponse():
                return self._learn_key(response.key_metadata)
            case wire.DescribeKeyRequest(), wire.DescribeKeyResponse():
                self._learn_state(response.key_metadata)
            case (wire.EncryptRequest() | wire.GenerateDataKeyRequest(), _) if isinstance(
                response, wire.EncryptResponse | wire.GenerateDataKeyResponse
            ):
                self._learn_blob(response.ciphertext_blob, response.key_id, request.encryption_context)
            case wire.GenerateDataKeyWithoutPlaintextRequest(), wire.GenerateDataKeyWithoutPlaintextResponse():
                self._learn_blob(response.ciphertext_blob, response.key_id, request.encryption_context)
            case wire.ReEncryptRequest(), wire.ReEncryptResponse():
                self._learn_blob(response.ciphertext_blob, response.key_id, request.destination_encryption_context)
            case wire.CreateAliasRequest() | wire.UpdateAliasRequest(), _:
                self.targets[request.alias_name] = bare(request.target_key_id) or ""
            case wire.DeleteAliasRequest(), _:
                self.targets.pop(request.alias_name, None)
            case wire.EnableKeyRequest(), _:
                self._believe(request.key_id, Belief.ENABLED)
            case wire.DisableKeyRequest() | wire.CancelKeyDeletionRequest(), _:
                self._believe(request.key_id, Belief.DISABLED)
            case wire.ScheduleKeyDeletionRequest(), _:
                self._believe(request.key_id, Belief.PENDING)
        return None

    def _learn_key(self, metadata: wire.KeyMetadata) -> str:
        """A repeat of one CreateKey answers with the same key again."""
        if metadata.key_id not in self._by_id:
            key = KnownKey(metadata.key_id, metadata.arn)
            self._by_id[key.key_id] = key
            self.keys.append(key)
        return metadata.key_id

    def _learn_state(self, metadata: wire.KeyMetadata) -> None:
        beliefs = {
            "Enabled": Belief.ENABLED,
            "Disabled": Belief.DISABLED,
            "PendingDeletion": Belief.PENDING,
        }
        self._believe(metadata.key_id, beliefs[metadata.key_state])

    def _believe(self, key_id: str, belief: Belief) -> None:
        known = self._by_id.get(bare(key_id) or "")
        if known is not None:
            known.belief = belief

    def _learn_blob(self, blob: bytes, arn: str, context: dict[str, str] | None) -> None:
        key_id = bare(arn) or ""
        self._key_of_blob[blob] = key_id
        self.blobs.append(KnownBlob(blob, key_id, context))


def bare(reference: str | None) -> str | None:
    """A key's id or an alias' name, without the ARN around it."""
    if reference is None or not reference.startswith("arn:"):
        return reference
    return reference.rpartition(":")[2].removeprefix("key/")
