"""A region as small as it can be: one dictionary of keys behind a door, answering at once. Not the product."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from keycluster.client.endpoints import Credentials
from keycluster.client.surroundings import REAL
from keycluster.cluster.wire import admin
from keycluster.cluster.wire import operations as wire
from keycluster.cluster.wire.errors import (
    DisabledException,
    InvalidCiphertextException,
    NotFoundException,
    UnrecognizedClientException,
)
from keycluster.cluster.wire.operations import Shape
from keycluster.simulations.checkers.history import History
from keycluster.simulations.workload.doors import Answered
from keycluster.simulations.workload.plan import Plan, draw_plan
from keycluster.simulations.workload.turns import Caller, Record
from keycluster.simulations.workload.workload import Workload

ARN = "arn:aws:kms:us-east-1:123456789012:key/"
NODES = ("n1", "n2", "n3")


class QuickRegion:
    """Keys, a blob's contents, and access keys. `asked` is every call, with the node it was pinned to."""

    def __init__(self) -> None:
        self.rng = random.Random(5)
        self.enabled: dict[str, bool] = {}
        self.blobs: dict[bytes, tuple[str, bytes]] = {}
        self.withdrawn: set[str] = set()
        self.asked: list[tuple[Shape, str | None]] = []
        self.lets_everybody_in = False
        self.lets_nobody_in = False
        self.before: Callable[[Shape], Exception | None] = lambda request: None

    def answer(self, request: Shape) -> Shape:
        match request:
            case wire.CreateKeyRequest():
                key_id = f"k{len(self.enabled)}"
                self.enabled[key_id] = True
                return wire.CreateKeyResponse(key_metadata=metadata(key_id))
            case wire.DisableKeyRequest() | wire.EnableKeyRequest():
                self.enabled[bare(request.key_id)] = isinstance(request, wire.EnableKeyRequest)
                return wire.EnableKeyResponse()
            case wire.EncryptRequest():
                return wire.EncryptResponse(
                    ciphertext_blob=self.seal(request.key_id, request.plaintext),
                    key_id=ARN + bare(request.key_id),
                    encryption_algorithm="SYMMETRIC_DEFAULT",
                )
            case wire.GenerateDataKeyRequest():
                data_key = self.rng.randbytes(request.number_of_bytes or 32)
                blob = self.seal(request.key_id, data_key)
                return wire.GenerateDataKeyResponse(
                    ciphertext_blob=blob, plaintext=data_key, key_id=ARN + bare(request.key_id)
                )
            case wire.DecryptRequest():
                return self.open(request)
            case admin.CreateAccessKeyRequest():
                return admin.CreateAccessKeyResponse(
                    access_key_id=f"AKIAQUICK{len(self.asked):011}", secret_access_key="hush", account=request.account
                )
            case admin.DeactivateAccessKeyRequest():
                self.withdrawn.add(request.access_key_id)
                return admin.DeactivateAccessKeyResponse()
            case wire.DescribeKeyRequest() if not request.key_id.startswith("alias/"):
                return wire.DescribeKeyResponse(key_metadata=metadata(bare(request.key_id)))
            case _:
                raise NotFoundException("not in this region")

    def seal(self, key_id: str, plaintext: bytes) -> bytes:
        if not self.enabled.get(bare(key_id), False):
            raise DisabledException(key_id) if bare(key_id) in self.enabled else NotFoundException(key_id)
        blob = self.rng.randbytes(24)
        self.blobs[blob] = (bare(key_id), plaintext)
        return blob

    def open(self, request: wire.DecryptRequest) -> Shape:
        if request.ciphertext_blob not in self.blobs:
            raise InvalidCiphertextException
        key_id, plaintext = self.blobs[request.ciphertext_blob]
        return wire.DecryptResponse(key_id=ARN + key_id, plaintext=plaintext, encryption_algorithm="SYMMETRIC_DEFAULT")


class QuickDoor:
    kind = "quick"
    nodes = NODES

    def __init__(self, region: QuickRegion, access_key_id: str) -> None:
        self._region = region
        self._access_key_id = access_key_id

    async def ask(self, request: Shape, *, at: str | None, seconds: float, request_id: bytes | None = None) -> Answered:
        await trio.lowlevel.checkpoint()
        self._region.asked.append((request, at))
        refusal = self._region.before(request)
        if refusal is not None:
            raise refusal
        if self._access_key_id in self._region.withdrawn:
            raise UnrecognizedClientException
        return self._region.answer(request), at


def bare(reference: str) -> str:
    return reference.removeprefix(ARN)


def metadata(key_id: str) -> wire.KeyMetadata:
    return wire.KeyMetadata(
        aws_account_id="123456789012",
        key_id=key_id,
        arn=ARN + key_id,
        creation_date=0.0,
        enabled=True,
        description="",
        key_usage="ENCRYPT_DECRYPT",
        key_state="Enabled",
        origin="AWS_KMS",
        key_manager="CUSTOMER",
        customer_master_key_spec="SYMMETRIC_DEFAULT",
        key_spec="SYMMETRIC_DEFAULT",
        multi_region=False,
    )


class QuickWorld:
    """A region, a workload on it, and callers."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.region = QuickRegion()
        self.history = History()
        self.workload = Workload(
            plan or draw_plan(1), Record(self.history, lambda: len(self.history.calls)), seed="test"
        )

    def caller(self, name: str = "c1", access_key_id: str = "AKIAOPERATOR") -> Caller:
        return Caller(name, QuickDoor(self.region, access_key_id), REAL, self.open_door)

    @asynccontextmanager
    async def open_door(self, credentials: Credentials) -> AsyncIterator[QuickDoor]:
        is_withdrawn = credentials.access_key_id in self.region.withdrawn
        if self.region.lets_nobody_in or (is_withdrawn and not self.region.lets_everybody_in):
            raise UnrecognizedClientException
        yield QuickDoor(self.region, credentials.access_key_id)
