"""A whole join over real TLS: who is admitted, and who is not."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from keycluster.cluster.keys.commands import IssueJoinToken
from keycluster.cluster.keys.hierarchy import Purpose
from keycluster.cluster.keys.records import MemberRole, MemberState
from keycluster.cluster.keys.token import TokenInvalid, open_secret
from keycluster.cluster.seams import ByteStream, DialError
from keycluster.cluster.store.log import LogStore
from keycluster.cluster.store.state import StateStore
from keycluster.cluster.types import NodeId
from keycluster.cluster.wire.errors import (
    AccessDeniedException,
    ConflictException,
    DependencyTimeoutException,
    ValidationException,
)
from keycluster.cluster.wire.frames import Join, JoinAnswer, decode_server_greeting, encode_greeting
from keycluster.node.admission import TOKEN_REFUSED, Admitter, new_join_token, prepare_admission
from keycluster.node.config import NodeConfig
from keycluster.node.join_messages import Admission, ask, read_answer
from keycluster.node.join_token import JoinToken
from keycluster.node.joining import (
    JoinFailed,
    PendingKeys,
    check_admission,
    join_region,
    new_pending_keys,
    new_request,
)
from keycluster.node.making import LOG_FOLDER, MARK_NAME, STATE_FOLDER, FolderTaken, is_unfinished
from keycluster.node.pki import CertificateRefused, public_key_of, public_key_of_private
from keycluster.node.sealing import PENDING_NAME, SEALED_NAME, SealError, wrap_info
from tests.node.region_on_disk import HOUR, RegionOnDisk, node_config, read_frame, secrets_on_disk
from tests.node.tls_parties import new_parties


@pytest.fixture
def region(tmp_path: Path) -> Iterator[RegionOnDisk]:
    region = RegionOnDisk(tmp_path)
    yield region
    region.close()


def joiner(folder: Path, node: str = "n2", *, az: str = "b", role: str = "learner") -> NodeConfig:
    return node_config(folder, node, az=az, role=role)


class Asker:
    """A joiner's question without a network, against one node of the region."""

    def __init__(self, region: RegionOnDisk, config: NodeConfig, token: JoinToken) -> None:
        self.region = region
        self.token = token
        self.keys = new_pending_keys(region.world.entropy)
        self.request = new_request(config, token, self.keys, entropy=region.world.entropy)
        self.server = region.secrets.native_certificate
        self.question = ask(self.request, secret=token.secret, server_certificate=self.server)

    def admit(self, question: bytes | None = None) -> bytes:
        """The answer; applies the admission."""
        now = self.region.cluster_time()
        assert now is not None
        prepared = prepare_admission(
            question or self.question,
            view=self.region.view,
            secrets=self.region.secrets,
            entropy=self.region.world.entropy,
            now=now,
        )
        if prepared.command is not None:
            assert self.region.carry_out(prepared.command).error_code is None
        return prepared.answer

    def admission(self) -> Admission:
        return read_answer(
            self.admit(), question=self.question, secret=self.token.secret, server_certificate=self.server
        )


async def test_joined_node_has_all_it_needs(region: RegionOnDisk, tmp_path: Path) -> None:
    """It holds the region's domain keys, certificates for its own keys, the members' pins, and empty stores."""
    config = joiner(tmp_path)
    async with region.native_port() as address:
        joined = await join_region(config, region.issue_token(address=address), world=region.world)
    assert (joined.region, joined.members) == ("us-east-1", 1)
    secrets = secrets_on_disk(config, region.world)
    assert secrets.generations == region.secrets.generations
    assert (secrets.peer_ca, secrets.client_ca) == (region.secrets.peer_ca, region.secrets.client_ca)
    [contact] = secrets.contacts
    assert contact.node == "n1"
    assert contact.identity_key == public_key_of_private(region.secrets.peer_key)
    member = region.member("n2")
    assert member is not None
    assert (member.state, member.role, member.az) == (MemberState.JOINING, None, "b")
    assert member.identity_key == public_key_of(secrets.peer_certificate) == public_key_of_private(secrets.peer_key)
    assert member.wrap_key == secrets.wrap_public
    keys = secrets.keyring().state_keys(1)
    log = LogStore.open(region.world.disk, config.data / LOG_FOLDER, keys)
    assert log.last_index == 0
    log.close()
    state = StateStore.open(region.world.disk, config.data / STATE_FOLDER, keys)
    assert state.view.applied_index == 0
    state.close()
    assert region.world.disk.list(config.data) == ["lock", LOG_FOLDER, SEALED_NAME, STATE_FOLDER]


async def test_joined_node_and_member_trust_each_other(region: RegionOnDisk, tmp_path: Path) -> None:
    """The certificates open the peer port both ways, and clients take the new node's native one."""
    config = joiner(tmp_path)
    async with region.native_port() as address:
        await join_region(config, region.issue_token(address=address), world=region.world)
    joined = secrets_on_disk(config, region.world)
    network = region.world.network

    async def echo(stream: ByteStream) -> None:
        await stream.send_all(await stream.receive_some(10))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for server, client in ((region.secrets, joined), (joined, region.secrets)):
                serve = partial(
                    network.serve_peers, "127.0.0.1:0", echo, identity=server.peer_identity, peer_ca=server.peer_ca
                )
                stream = await network.dial_peer(
                    await nursery.start(serve),
                    identity=client.peer_identity,
                    peer_ca=client.peer_ca,
                    expected_public_key=public_key_of(server.peer_certificate),
                )
                await stream.send_all(b"hello")
                assert await stream.receive_some(10) == b"hello"
            native = await nursery.start(
                partial(network.serve_native, "127.0.0.1:0", echo, identity=joined.native_identity)
            )
            await network.dial_native(native, client_ca=region.secrets.client_ca)
            with pytest.raises(DialError):
                await network.dial_native(native, client_ca=region.secrets.peer_ca)
            nursery.cancel_scope.cancel()


async def test_secret_and_private_keys_never_cross_the_wire(region: RegionOnDisk, tmp_path: Path) -> None:
    """Neither the question (as the server sees it, inside TLS) nor the command in the log holds any of them."""
    config = joiner(tmp_path)
    async with region.native_port() as address:
        token = region.issue_token(address=address)
        await join_region(config, token, world=region.world)
    secrets = secrets_on_disk(config, region.world)
    [question] = region.questions
    hunted = (token.secret, secrets.peer_key[36:68], secrets.native_key[36:68], secrets.wrap_private)
    rows = b"".join(value for table in range(1, 16) for _, value in region.view.scan(table, limit=100))
    for secret in (*hunted, region.secrets.generations[0][1]):
        assert secret not in question
        assert secret not in rows
    assert token.token_id in question  # The scan can find something.
    assert secrets.wrap_public in rows


# Tokens that are not good.


def wrong_secret(region: RegionOnDisk, folder: Path) -> Asker:
    token = region.issue_token()
    return Asker(region, joiner(folder), replace(token, secret=b"x" * 32))


def unknown_token(region: RegionOnDisk, folder: Path) -> Asker:
    return Asker(region, joiner(folder), replace(region.issue_token(), token_id=b"x" * 16))


def expired_token(region: RegionOnDisk, folder: Path) -> Asker:
    asker = Asker(region, joiner(folder), region.issue_token())
    region.late_by = HOUR
    return asker


def burnt_token(region: RegionOnDisk, folder: Path) -> Asker:
    token = region.issue_token()
    Asker(region, joiner(folder, "n2"), token).admit()
    return Asker(region, joiner(folder, "n3"), token)


def burnt_token_of_the_same_name(region: RegionOnDisk, folder: Path) -> Asker:
    token = region.issue_token()
    Asker(region, joiner(folder), token).admit()
    return Asker(region, joiner(folder), token)  # Other keys.


def burnt_token_of_a_removed_node(region: RegionOnDisk, folder: Path) -> Asker:
    asker = Asker(region, joiner(folder), region.issue_token())
    asker.admit()
    region.change_member("n2", state=MemberState.REMOVED, identity_key=b"", wrap_key=b"", certificates=())
    return asker


def other_az(region: RegionOnDisk, folder: Path) -> Asker:
    return Asker(region, joiner(folder, az="c"), region.issue_token(az="b"))


def other_role(region: RegionOnDisk, folder: Path) -> Asker:
    return Asker(region, joiner(folder, role="voter"), region.issue_token(role=MemberRole.LEARNER))


def proof_for_another_server(region: RegionOnDisk, folder: Path) -> Asker:
    asker = Asker(region, joiner(folder), region.issue_token())
    asker.question = ask(asker.request, secret=asker.token.secret, server_certificate=b"somebody between")
    return asker


@pytest.mark.parametrize(
    "make",
    [
        wrong_secret,
        unknown_token,
        expired_token,
        burnt_token,
        burnt_token_of_the_same_name,
        burnt_token_of_a_removed_node,
        other_az,
        other_role,
        proof_for_another_server,
    ],
)
def test_bad_tokens_get_one_refusal(region: RegionOnDisk, tmp_path: Path, make: object) -> None:
    """Whatever is wrong with the token, the text is the same, and nobody is admitted."""
    assert callable(make)
    asker: Asker = make(region, tmp_path)
    members = {node: region.member(node) for node in ("n1", "n2", "n3")}
    with pytest.raises(AccessDeniedException) as raised:
        asker.admit()
    assert raised.value.message == TOKEN_REFUSED
    assert {node: region.member(node) for node in ("n1", "n2", "n3")} == members


def test_proven_question_is_told_what_is_wrong(region: RegionOnDisk, tmp_path: Path) -> None:
    """Who has a good token learns what to mend: region, name, keys and addresses."""
    token = region.issue_token()
    good = Asker(region, joiner(tmp_path), token)
    for changes, error, text in (
        ({"region": "eu-west-1"}, ValidationException, "This is region us-east-1"),
        ({"node": NodeId("n1")}, ConflictException, "never given again"),
        ({"peer_public_key": b"none"}, ValidationException, "public key doesn't parse"),
        ({"wrap_public_key": bytes(32)}, ValidationException, "wrap key"),
        ({"peer_address": "nowhere"}, ValidationException, "is not an address"),
        ({"native_address": "192.0.2.1:0"}, ValidationException, "names no port"),
    ):
        request = msgspec.structs.replace(good.request, **changes)
        question = ask(request, secret=token.secret, server_certificate=good.server)
        with pytest.raises(error, match=text):
            good.admit(question)
    good.admit()


def test_garbage_question_is_refused(region: RegionOnDisk, tmp_path: Path) -> None:
    """Bytes that are no question are a ValidationException and nothing worse."""
    asker = Asker(region, joiner(tmp_path), region.issue_token())
    for garbage in (b"x", asker.question[:-1], asker.question + b"x", bytes(10_000)):
        with pytest.raises(ValidationException, match="malformed"):
            asker.admit(garbage)


def test_replayed_question_admits_nobody_else(region: RegionOnDisk, tmp_path: Path) -> None:
    """Who recorded a question gets what only the first asker's keys open, and no second member appears."""
    asker = Asker(region, joiner(tmp_path), region.issue_token())
    asker.admit()
    member = region.member("n2")
    admission = asker.admission()
    assert region.member("n2") == member
    thief = region.world.entropy.new_wrap_key_pair()
    info = wrap_info("us-east-1", 1, NodeId("n2"))
    with pytest.raises(Exception, match="does not open"):
        region.world.entropy.unwrap(admission.wraps[0][1], key_pair=thief, info=info)


async def test_lost_answer_is_asked_for_again(region: RegionOnDisk, tmp_path: Path) -> None:
    """A joiner whose answer got lost runs the same command again, and is the same member."""
    config = joiner(tmp_path)
    async with region.native_port() as address:
        token = region.issue_token(address=address)
        region.lose_answers = 1
        with pytest.raises(JoinFailed, match="without an answer"):
            await join_region(config, token, world=region.world)
        assert is_unfinished(config.data, region.world.disk)
        member = region.member("n2")
        await join_region(config, token, world=region.world)
    assert region.member("n2") == member
    assert secrets_on_disk(config, region.world).generations == region.secrets.generations
    assert not (config.data / PENDING_NAME).exists()
    assert not (config.data / MARK_NAME).exists()


async def test_address_that_fails_gives_way_to_the_next(region: RegionOnDisk, tmp_path: Path) -> None:
    """A dead address, and a node without a lease, cost no join."""
    config = joiner(tmp_path)
    async with region.native_port() as address:
        token = region.issue_token(address=address)
        region.leases_missing = 2
        with pytest.raises(JoinFailed, match="can't know whether it is current"):
            await join_region(config, token, world=region.world)
        addresses = ("127.0.0.1:1", address, address)
        await join_region(config, replace(token, addresses=addresses), world=region.world)
        assert len(region.questions) == 3


async def test_refusal_ends_the_join(region: RegionOnDisk, tmp_path: Path) -> None:
    """What one node says about a token is what all would say: the operator is told at once."""
    config = joiner(tmp_path, az="c")
    async with region.native_port() as address:
        token = region.issue_token(address=address)
        with pytest.raises(JoinFailed, match=TOKEN_REFUSED):
            await join_region(config, replace(token, addresses=(address, "127.0.0.1:1")), world=region.world)
    assert not (config.data / SEALED_NAME).exists()


async def test_folder_with_a_node_joins_nothing(region: RegionOnDisk) -> None:
    """A node that is there stays what it is."""
    with pytest.raises(FolderTaken, match="holds a node already"):
        await join_region(region.config, region.issue_token(), world=region.world)


# Who stands between.


@asynccontextmanager
async def between(region: RegionOnDisk, target: str) -> AsyncIterator[str]:
    """Somebody with a certificate of another CA, who passes every frame on, both ways."""
    network, parties = region.world.network, new_parties()
    party = parties.node("n1", parties.client_ca)

    async def relay(stream: ByteStream) -> None:
        question = decode_join(await read_frame(stream))
        onward = await network.dial_native(target, client_ca=None)
        await onward.send_all(encode_greeting(Join(question)))
        answer = decode_server_greeting(await read_frame(onward))
        await stream.send_all(encode_greeting(answer))
        await onward.aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(network.serve_native, "127.0.0.1:0", relay, identity=party.identity)
            yield await nursery.start(serve)
            nursery.cancel_scope.cancel()


def decode_join(body: bytes) -> bytes:
    return msgspec.msgpack.decode(body, type=Join).payload


async def test_relay_with_another_certificate_gets_nothing(region: RegionOnDisk, tmp_path: Path) -> None:
    """The region sees a proof for another server, refuses, and the token stays good for the real joiner."""
    config = joiner(tmp_path)
    async with region.native_port() as address:
        token = region.issue_token(address=address)
        async with between(region, address) as spy:
            with pytest.raises(JoinFailed, match=TOKEN_REFUSED):
                await join_region(config, replace(token, addresses=(spy,)), world=region.world)
        assert region.member("n2") is None
        await join_region(config, token, world=region.world)


async def test_impostor_without_the_secret_is_not_believed(region: RegionOnDisk, tmp_path: Path) -> None:
    """A server that makes up an answer, domain key and all, is told from the region; the next address is asked."""
    config, impostor = joiner(tmp_path), RegionOnDisk(tmp_path / "impostor")
    made_up = Asker(impostor, config, impostor.issue_token()).admit()

    async def make_up(stream: ByteStream) -> None:
        assert decode_join(await read_frame(stream))
        await stream.send_all(encode_greeting(JoinAnswer(made_up)))

    async with region.native_port() as address, trio.open_nursery() as nursery:
        serve = partial(
            region.world.network.serve_native, "127.0.0.1:0", make_up, identity=impostor.secrets.native_identity
        )
        false = await nursery.start(serve)
        token = region.issue_token(address=address)
        with pytest.raises(JoinFailed, match="not the region's"):
            await join_region(config, replace(token, addresses=(false,)), world=region.world)
        await join_region(config, replace(token, addresses=(false, address)), world=region.world)
        nursery.cancel_scope.cancel()
    impostor.close()
    assert secrets_on_disk(config, region.world).generations == region.secrets.generations


def test_answer_is_checked_whole(region: RegionOnDisk, tmp_path: Path) -> None:
    """Who has the token's secret but not the region's CA and keys (a stolen token) can't pose as the region."""
    asker = Asker(region, joiner(tmp_path), region.issue_token())
    good = asker.admission()
    parties = new_parties()
    other = parties.node("n2", parties.client_ca).identity.certificate

    def check(
        admission: Admission, *, token: JoinToken = asker.token, server: bytes = asker.server,
        keys: PendingKeys = asker.keys
    ) -> None:  # fmt: skip
        check_admission(admission, request=asker.request, token=token, keys=keys, server=server, world=region.world)

    check(good)
    swapped = msgspec.structs.replace
    for attempt, error, text in (
        (partial(check, good, token=replace(asker.token, client_ca_fingerprint=bytes(32))), CertificateRefused,
         "fingerprint"),
        (partial(check, swapped(good, client_ca=parties.client_ca.certificate)), CertificateRefused, "fingerprint"),
        (partial(check, good, server=other), CertificateRefused, "another authority"),
        (partial(check, swapped(good, native_certificate=other)), CertificateRefused, "another authority"),
        (partial(check, swapped(good, peer_certificate=other)), CertificateRefused, "another authority"),
        (partial(check, swapped(good, peer_certificate=region.secrets.peer_certificate)), CertificateRefused,
         "other keys"),
        (partial(check, swapped(good, wraps=())), SealError, "no domain key"),
        (partial(check, swapped(good, wraps=((2, good.wraps[0][1]),))), SealError, "not for this node"),
        (partial(check, good, keys=new_pending_keys(region.world.entropy)), SealError, "not for this node"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            attempt()


async def test_admission_needs_lease_and_time(region: RegionOnDisk, tmp_path: Path) -> None:
    """A node that can't know whether the token was used meanwhile asks to go elsewhere."""
    asker = Asker(region, joiner(tmp_path), region.issue_token())
    admitter = Admitter(secrets=lambda: region.secrets, consensus=region, entropy=region.world.entropy)
    region.leases_missing = 1
    with pytest.raises(DependencyTimeoutException) as raised:
        await admitter.admit(asker.question, source="10.0.0.9:1")
    assert raised.value.retryable
    assert region.member("n2") is None


async def test_repeated_admission_is_settled_before_it_is_answered(
    region: RegionOnDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule L5: applied here isn't yet known everywhere, and the first answer may still be waiting for that."""
    asker = Asker(region, joiner(tmp_path), region.issue_token())
    admitter = Admitter(secrets=lambda: region.secrets, consensus=region, entropy=region.world.entropy)
    await admitter.admit(asker.question, source="10.0.0.9:1")
    asked: list[int] = []

    async def settled(index: int) -> None:
        asked.append(index)

    monkeypatch.setattr(region, "settled", settled)
    await admitter.admit(asker.question, source="10.0.0.9:1")
    assert asked == [region.view.applied_index]


def test_issued_token_is_stored_sealed(region: RegionOnDisk) -> None:
    """The command that enters the log holds the secret sealed under its purpose, bound to its id."""
    command = new_join_token(role=MemberRole.VOTER, az="b", keyring=region.keyring, entropy=region.world.entropy)
    assert isinstance(command, IssueJoinToken)
    secret = open_secret(region.keyring, Purpose.JOIN_TOKEN, command.secret_sealed, owner=command.token_id)
    assert len(secret) == 32
    assert secret not in command.secret_sealed
    with pytest.raises(TokenInvalid):
        open_secret(region.keyring, Purpose.JOIN_TOKEN, command.secret_sealed, owner=b"another token id")


def test_removed_node_never_comes_back(region: RegionOnDisk, tmp_path: Path) -> None:
    """Its id is refused with a new token too."""
    Asker(region, joiner(tmp_path), region.issue_token()).admit()
    region.change_member("n2", state=MemberState.REMOVED, identity_key=b"", wrap_key=b"", certificates=())
    with pytest.raises(ConflictException, match="never given again"):
        Asker(region, joiner(tmp_path), region.issue_token()).admit()


def test_pending_keys_hide_themselves(region: RegionOnDisk) -> None:
    """No `repr` on the way of a join shows a key or a secret."""
    keys = new_pending_keys(region.world.entropy)
    assert repr(keys) == "PendingKeys()"
    issued = new_join_token(role=MemberRole.VOTER, az="b", keyring=region.keyring, entropy=region.world.entropy)
    assert issued.secret_sealed.hex() not in repr(issued)
