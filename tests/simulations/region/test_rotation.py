"""A rotation, seen from all nodes while it is under way."""

from contextlib import suppress

import trio

from keycluster.cluster.wire.errors import KeyUnavailableException
from keycluster.cluster.wire.operations import (
    CreateKeyRequest,
    CreateKeyResponse,
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
    RotateKeyOnDemandRequest,
)
from keycluster.simulations.region.clients import SimClient
from keycluster.simulations.region.region import SimRegion
from keycluster.simulations.workload.turns import Caller
from tests.simulations.region.quiet_region import in_region
from tests.simulations.region.test_clients import used, world_of


def test_ciphertext_opens_at_a_node_that_has_not_heard_of_the_rotation() -> None:
    """Whatever a node has answered, every node that serves can decrypt, at every moment of a rotation."""

    async def body(region: SimRegion) -> None:
        leader = region.leader()
        assert leader is not None
        late, other = [name for name in sorted(region.nodes) if name != leader.name][:2]

        async def use(caller: Caller) -> None:
            ask = caller.door.ask
            made, _ = await ask(CreateKeyRequest(), at=None, seconds=5, request_id=bytes(16))
            assert isinstance(made, CreateKeyResponse)
            key = made.key_metadata.key_id
            await ask(EncryptRequest(key_id=key, plaintext=b"x"), at=late, seconds=5)  # It has a connection now.
            region.network.links.clog(leader.name, late)

            async def rotate() -> None:
                request = RotateKeyOnDemandRequest(key_id=key)
                await ask(request, at=leader.name, seconds=3, request_id=b"1" * 16)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(rotate)
                materials: set[str | None] = set()
                while len(materials) < 2:
                    blob, _ = await ask(GenerateDataKeyRequest(key_id=key, key_spec="AES_256"), at=other, seconds=5)
                    assert isinstance(blob, GenerateDataKeyResponse)
                    materials.add(blob.key_material_id)
                    with suppress(KeyUnavailableException):  # Once its lease has run out.
                        opening = DecryptRequest(ciphertext_blob=blob.ciphertext_blob)
                        opened, _ = await ask(opening, at=late, seconds=1)
                        assert isinstance(opened, DecryptResponse)
                        assert opened.plaintext == blob.plaintext

        await used(SimClient("c0", world_of(region)), use)

    in_region(body)
