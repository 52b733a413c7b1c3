"""A new node's side of a join: `keycluster join` (security.md, 8; node/admission.py is the region's side).

The joiner makes its keys, keeps them sealed while it asks, and asks each address of the token until one admits it. It
trusts what answers only when all of it holds: the answer's proof shows that the region knows the token's secret and saw
the same server certificate; the client CA has the token's fingerprint and issued that certificate; the certificates
that come are for the joiner's own keys; every domain key opens. Then the folder holds a node: its secrets, an empty log
and an empty state, which the region fills by itself.

A join that was cut off can be repeated with the same token: the keys are the same, so the region answers again.
"""

from dataclasses import dataclass

import msgspec
import trio
from msgspec import Struct

from keycluster.cluster.seams import ByteStream, DialError, Entropy, World
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore
from keycluster.cluster.wire.frames import (
    GREETING_BYTES_MAX,
    FrameMalformed,
    FrameSplitter,
    Join,
    JoinAnswer,
    Refused,
    decode_server_greeting,
    encode_greeting,
)
from keycluster.node.config import NodeConfig
from keycluster.node.founding import NO_MEMBERSHIP
from keycluster.node.join_messages import (
    NONCE_BYTES,
    VERSION,
    Admission,
    JoinMalformed,
    JoinRequest,
    ask,
    read_answer,
)
from keycluster.node.join_token import JoinToken
from keycluster.node.making import LOG_FOLDER, STATE_FOLDER, making
from keycluster.node.pki import (
    CertificateRefused,
    check_issued,
    fingerprint,
    new_private_key,
    public_key_of,
    public_key_of_private,
)
from keycluster.node.seal_source import new_seal
from keycluster.node.sealing import (
    PENDING_NAME,
    NodeSecrets,
    Seal,
    SealError,
    accept_generation,
    open_bytes,
    read_sealed,
    seal_bytes,
    write_secrets,
)

ANSWER_SECONDS_MAX = 60.0
"""For one address: the region may be electing a leader while it holds our question."""

RECEIVE_BYTES = 16_384


class JoinFailed(Exception):
    """The node did not become a member; the text says why, one line an address."""


class _NotHere(Exception):
    """This address can't admit the node at the moment; another one may."""


class PendingKeys(Struct, frozen=True, array_like=True):
    """The keys of a node that has asked to be admitted."""

    peer_key: bytes
    native_key: bytes
    wrap_private: bytes
    wrap_public: bytes

    def __repr__(self) -> str:
        return "PendingKeys()"


@dataclass(frozen=True, slots=True)
class JoinedRegion:
    """What the operator may want to see."""

    region: str
    client_ca: bytes  # DER.
    members: int
    """How many the node was told of."""


_encoder = msgspec.msgpack.Encoder()
_pending: msgspec.msgpack.Decoder[PendingKeys] = msgspec.msgpack.Decoder(PendingKeys)


async def join_region(config: NodeConfig, token: JoinToken, *, world: World) -> JoinedRegion:
    """Makes a node in the configuration's data folder that the region has admitted. Waits as long as it takes.

    Raises `JoinFailed`, `FolderTaken`, `SealError` or `OSError`; a cancelled or failed join may be repeated.
    """
    # The folder's lock is held across awaits: only this process works in it until the join has come to an end.
    with making(config.data, world.disk, keep_pending=True):
        seal = await world.disk.run(lambda: new_seal(config, disk=world.disk, entropy=world.entropy))
        keys = await world.disk.run(lambda: _pending_keys(config, seal, world))
        admitted = await _ask_everywhere(config, token, keys, world=world)
        await world.disk.run(lambda: _settle_in(config, admitted, seal, world))
    return JoinedRegion(region=admitted.region, client_ca=admitted.client_ca, members=len(admitted.contacts))


def check_admission(
    admission: Admission, *, request: JoinRequest, token: JoinToken, keys: PendingKeys, server: bytes, world: World
) -> NodeSecrets:
    """The new node's secrets, once everything the region answered holds. `server` is its certificate on this stream.

    Raises `CertificateRefused` or `SealError`.
    """
    now = world.clock.wall()
    if fingerprint(admission.client_ca) != token.client_ca_fingerprint:
        raise CertificateRefused("the region's client CA has not the fingerprint that the token names")
    check_issued(server, authority_certificate=admission.client_ca, now=now)
    check_issued(admission.native_certificate, authority_certificate=admission.client_ca, now=now)
    check_issued(admission.peer_certificate, authority_certificate=admission.peer_ca, now=now)
    shown = (public_key_of(admission.peer_certificate), public_key_of(admission.native_certificate))
    if shown != (request.peer_public_key, request.native_public_key):
        raise CertificateRefused("the region issued certificates for other keys than this node's")
    if not admission.wraps:
        raise SealError("the region sent no domain key")
    secrets = NodeSecrets(
        region=request.region,
        node=request.node,
        peer_key=keys.peer_key,
        native_key=keys.native_key,
        wrap_private=keys.wrap_private,
        wrap_public=keys.wrap_public,
        generations=(),
        peer_certificate=admission.peer_certificate,
        native_certificate=admission.native_certificate,
        peer_ca=admission.peer_ca,
        client_ca=admission.client_ca,
        contacts=admission.contacts,
    )
    for number, wrapped in admission.wraps:
        secrets = accept_generation(secrets, number, wrapped, entropy=world.entropy)
    return secrets


def new_request(config: NodeConfig, token: JoinToken, keys: PendingKeys, *, entropy: Entropy) -> JoinRequest:
    """What this node asks for."""
    return JoinRequest(
        version=VERSION,
        token_id=token.token_id,
        nonce=entropy.random_bytes(NONCE_BYTES),
        region=config.region,
        node=config.node,
        az=config.az,
        role=config.role,
        peer_public_key=public_key_of_private(keys.peer_key),
        native_public_key=public_key_of_private(keys.native_key),
        wrap_public_key=keys.wrap_public,
        peer_address=config.peer.advertised,
        native_address=config.native.advertised,
        aws_address=config.aws.advertised,
    )


def new_pending_keys(entropy: Entropy) -> PendingKeys:
    """Fresh keys for a node that will ask."""
    wrap_keys = entropy.new_wrap_key_pair()
    return PendingKeys(new_private_key(entropy), new_private_key(entropy), wrap_keys.private, wrap_keys.public)


async def _ask_everywhere(config: NodeConfig, token: JoinToken, keys: PendingKeys, *, world: World) -> NodeSecrets:
    """Each address once; what one says about the token is what all would say."""
    setbacks = []
    for address in token.addresses:
        try:
            with trio.fail_after(ANSWER_SECONDS_MAX):
                return await _ask_at(address, config, token, keys, world=world)
        except _NotHere as setback:
            setbacks.append(f"{address}: {setback}")
        except trio.TooSlowError:
            setbacks.append(f"{address}: no answer within {ANSWER_SECONDS_MAX:g} s")
    raise JoinFailed("no address of the token admitted this node:\n" + "\n".join(setbacks))


async def _ask_at(
    address: str, config: NodeConfig, token: JoinToken, keys: PendingKeys, *, world: World
) -> NodeSecrets:
    try:
        stream = await world.network.dial_native(address, client_ca=None)
    except DialError as error:
        raise _NotHere(str(error)) from None
    try:
        server = stream.peer_certificate
        if server is None:
            raise _NotHere("it shows no certificate")
        request = new_request(config, token, keys, entropy=world.entropy)
        question = ask(request, secret=token.secret, server_certificate=server)
        payload = await _exchange(stream, question)
        admission = read_answer(payload, question=question, secret=token.secret, server_certificate=server)
        return check_admission(admission, request=request, token=token, keys=keys, server=server, world=world)
    except (JoinMalformed, CertificateRefused, SealError) as error:
        # Not the region, or not ours: another address may be, and nothing was told to this one that helps it.
        raise _NotHere(str(error)) from None
    finally:
        await stream.aclose()


async def _exchange(stream: ByteStream, question: bytes) -> bytes:
    """One question, one answer. Raises `JoinFailed` for a refusal that is final."""
    splitter = FrameSplitter(GREETING_BYTES_MAX)
    try:
        await stream.send_all(encode_greeting(Join(question)))
        while True:
            content = await stream.receive_some(RECEIVE_BYTES)
            if not content:
                raise _NotHere("it closed the connection without an answer")
            for body in splitter.feed(content):
                return _read_reply(body)
    except (trio.BrokenResourceError, FrameMalformed) as error:
        raise _NotHere(f"the connection broke: {error}") from None


def _read_reply(body: bytes) -> bytes:
    message = decode_server_greeting(body)
    if isinstance(message, JoinAnswer):
        return message.payload
    if isinstance(message, Refused):
        if message.retryable:
            raise _NotHere(message.message)
        raise JoinFailed(f"refused ({message.code}): {message.message}")
    raise FrameMalformed("not an answer to a join")


def _pending_keys(config: NodeConfig, seal: Seal, world: World) -> PendingKeys:
    """Those of an earlier try with this folder, else fresh ones, sealed before anybody hears of them."""
    if world.disk.size(config.data / PENDING_NAME):
        content = open_bytes(read_sealed(config.data, world.disk, PENDING_NAME), seal)
        try:
            return _pending.decode(content)
        except msgspec.MsgspecError:
            raise SealError(f"{PENDING_NAME} was written by another version of keycluster: remove it") from None
    keys = new_pending_keys(world.entropy)
    world.disk.replace(config.data / PENDING_NAME, seal_bytes(_encoder.encode(keys), seal, entropy=world.entropy))
    return keys


def _settle_in(config: NodeConfig, secrets: NodeSecrets, seal: Seal, world: World) -> None:
    keyring = secrets.keyring()
    keys = keyring.state_keys(keyring.newest)
    LogStore.create(world.disk, config.data / LOG_FOLDER, keys).close()
    StateStore.create(world.disk, config.data / STATE_FOLDER, keys, membership=NO_MEMBERSHIP).close()
    write_secrets(secrets, seal, data=config.data, disk=world.disk, entropy=world.entropy)
