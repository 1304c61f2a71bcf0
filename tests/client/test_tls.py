"""Certificates and tokens: what a client does with its `tls` and `token`, on connections to real brokers."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import Authority, put
from takhin.client import Admin, Consumer, Producer, Retry, Tls, TlsFiles, handshakes, sync
from takhin.client.errors import HandshakeError, UnreachableError
from takhin.client.handshakes import MISSING, REFUSED
from takhin.errors import InvalidArgumentError
from takhin.testing import MemoryBroker

ONCE = Retry(attempts_max=1)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def strangers():
    """An authority that neither the broker nor clients trust."""
    return Authority("strangers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, authority):
    """The certificates of the broker."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.issue().save(folder)
    put(folder / "clients.pem", authority.pem)
    return folder


def broker_of(folder, listen):
    return MemoryBroker(
        {
            "listen": listen,
            "tls.certificate_file": str(folder / "broker.pem"),
            "tls.key_file": str(folder / "broker.key"),
            "tls.client_ca_file": str(folder / "clients.pem"),
            "tls.look_ms": 20,
        }
    )


@pytest.fixture(scope="module")
def broker(folder, tmp_path_factory):
    """A broker that listens in every way."""
    path = tmp_path_factory.mktemp("socket") / "s"
    with broker_of(folder, f"127.0.0.1:0,tls://127.0.0.1:0,mtls://127.0.0.1:0,unix:{path}") as broker:
        yield broker


@pytest.fixture
def addresses(broker):
    """Of each listener, without what comes before HOST:PORT."""
    names = ("plain", "tls", "mtls", "unix")
    return dict(zip(names, [each.rpartition("//")[2] for each in broker.addresses], strict=True))


def tls(authority, own=None):
    return Tls(
        root_certificates=authority.pem,
        certificate_chain=own and own.certificate,
        private_key=own and own.key,
    )


async def healthy(address, **options):
    async with Admin(address, retry=ONCE, **options) as admin:
        return (await admin.health()).status == "healthy"


async def refused(address, **options):
    """The error with which there is no connection."""
    with pytest.raises(HandshakeError) as caught:
        await healthy(address, **options)
    assert caught.value.details["server"] == address
    return caught.value


async def test_all_ways_in(broker, addresses, authority):
    """A client connects to every kind of listener; tls:// in the address stands for TLS."""
    assert await healthy(addresses["plain"])
    assert await healthy(addresses["unix"], token="a-token-is-safe-there")
    assert await healthy(addresses["tls"], tls=tls(authority), token="secret")
    assert await healthy(f"tls://{addresses['tls']}", tls=tls(authority))
    own = authority.issue("ann", usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert await healthy(addresses["mtls"], tls=tls(authority, own))


async def test_which_side_refused_what(addresses, authority, strangers):
    """A handshake that fails raises an error that says which side refused what, and a reason for programs."""
    both = (HandshakeError, UnreachableError)
    for to, trusted, own, reason, words in [
        ("tls", strangers, None, "SERVER_AUTHORITY", "not signed by an authority that this client trusts"),
        ("tls", Authority(), None, "SERVER_AUTHORITY", "not signed by an authority"),  # of the same name
        ("tls", None, None, "SERVER_WANTS_TLS", "takes TLS alone"),
        ("plain", authority, None, "SERVER_IS_PLAIN", "does not take TLS"),
        ("mtls", authority, None, MISSING, "asks for a certificate of the client"),
        (
            "mtls",
            authority,
            strangers.issue("eve"),
            REFUSED,
            "not signed by an authority",
        ),
        ("mtls", authority, authority.issue("ann", days=-1), REFUSED, "it has expired"),
        (
            "mtls",
            authority,
            authority.issue("ann", usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
            REFUSED,
            "purpose",
        ),
    ]:
        began = time.monotonic()
        error = await refused(addresses[to], tls=trusted and tls(trusted, own))
        assert (error.details["reason"], isinstance(error, both)) == (reason, True)
        assert words in str(error)
        assert time.monotonic() - began < 2


async def test_bytes_that_are_no_certificates(addresses, authority):
    """Certificates given as bytes that cannot be used are told as the client's own fault."""
    own = authority.issue("ann")
    for unfit in (
        Tls(root_certificates=b""),
        Tls(root_certificates=b"garbage"),
        Tls(root_certificates=authority.pem, certificate_chain=b"x", private_key=own.key),
        Tls(
            root_certificates=authority.pem,
            certificate_chain=own.certificate,
            private_key=authority.issue("bob").key,
        ),
    ):
        error = await refused(addresses["mtls"], tls=unfit)
        assert error.details["reason"] == "CLIENT_UNFIT"


@pytest.mark.parametrize("names", [("elsewhere.example",), ()])
async def test_a_certificate_for_another_name(tmp_path, authority, names):
    """The name in the address must be in the certificate."""
    authority.issue("elsewhere.example", names=names).save(tmp_path)
    put(tmp_path / "clients.pem", authority.pem)
    with broker_of(tmp_path, "tls://127.0.0.1:0") as broker:
        error = await refused(broker.address, tls=tls(authority))
    assert error.details["reason"] == "SERVER_NAME"
    assert "this client refused the broker's certificate: it is not made out to 127.0.0.1" in str(error)


async def serving_once(answer):
    """A port where each connection gets this answer, then is closed."""

    async def served(_reader, writer):
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", bytes(5)])
async def test_what_is_no_broker(authority, answer):
    """The error says that another program has the port, with and without TLS."""
    server, address = await serving_once(answer)
    async with server:
        with pytest.raises(UnreachableError, match="does not speak HTTP/2"):
            await healthy(address)
        assert (await refused(address, tls=tls(authority))).details["reason"] == "HANDSHAKE_FAILED"


async def test_one_that_says_nothing(authority):
    """A look at a server that accepts and is silent ends in time, and so do those who wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for options in ({}, {"tls": tls(authority)}):
            async with Admin(address, timeout_ms=1_000, retry=ONCE, **options) as admin:
                with pytest.raises(UnreachableError):
                    await admin.health()


async def test_many_who_fail_at_one_time(addresses, authority):
    """A hundred calls that fail together make one look, and all say why."""
    async with Admin(addresses["tls"], retry=ONCE) as admin:
        looked = admin._connection._diagnosis._look
        looks = []

        async def counted(tls):
            looks.append(tls)
            return await looked(tls)

        admin._connection._diagnosis._look = counted
        failures = await asyncio.gather(*(admin.health() for _ in range(100)), return_exceptions=True)
    assert {type(failure) for failure in failures} == {HandshakeError}
    assert len(looks) == 1


async def test_a_look_is_cancelled(addresses):
    """Whoever waits for a look can be cancelled, also all of them, and the client be closed within it."""
    async with Admin(addresses["tls"], retry=ONCE) as admin:
        waiting = [asyncio.create_task(admin.health()) for _ in range(3)]
        while admin._connection._diagnosis._looking is None:  # noqa: ASYNC110  gRPC's failure is no event
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        assert {type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)} == {
            asyncio.CancelledError
        }


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("unix:/nowhere/s", "No such file or directory"),
        ("nowhere.invalid:1", "no machine has that name"),
        (f"{'x' * 64}.invalid:1", "no machine has that name"),
    ],
)
async def test_where_nobody_is(server, words):
    """Without any handshake, the sentence says what the system says."""
    with pytest.raises(UnreachableError, match=words) as caught:
        await healthy(server)
    assert not isinstance(caught.value, HandshakeError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"server": "tls://h"}, "HOST:PORT"),
        ({"server": "tls://h:0"}, "port 0"),
        ({"server": "unix:"}, "unix:PATH"),
        ({"server": "unix:/s", "tls": Tls()}, "takes no TLS"),
        ({"server": "h:1", "token": "t"}, "would travel unencrypted"),
    ],
)
def test_what_cannot_be_meant(options, words):
    """What cannot work, or would give a token away, is refused before anything is sent."""
    with pytest.raises(InvalidArgumentError, match=words):
        Admin(**options)


def test_files_that_cannot_be_used(tmp_path, authority):
    """Each unfit file is refused at once, and named; a key with a passphrase asks nobody for it."""
    authority.issue("ann").save(tmp_path, "ann")
    authority.issue("bob").save(tmp_path, "bob")
    ann, key = tmp_path / "ann.pem", tmp_path / "ann.key"
    for files, words in [
        (TlsFiles(ca=tmp_path / "none"), "cannot read"),
        (TlsFiles(ca=key), "has no certificate in PEM"),
        (TlsFiles(certificate=ann), "are given together"),
        (TlsFiles(certificate=ann, key=tmp_path / "bob.key"), "is not the key of the certificate"),
        (TlsFiles(certificate=ann, key=tmp_path / "none"), "No such file"),
        (TlsFiles(certificate=key, key=key), "cannot be used with"),
    ]:
        with pytest.raises(InvalidArgumentError, match=words):
            Admin("h:1", tls=files)


async def test_channels_are_rebuilt(tmp_path, authority, strangers, caplog):
    """When the client's files change, new calls use them: no call fails, and streams under way go on."""
    authority.issue().save(tmp_path)
    put(tmp_path / "clients.pem", authority.pem + strangers.pem)
    put(tmp_path / "ca.pem", authority.pem)
    authority.issue("ann").save(tmp_path, "own")
    files = TlsFiles(ca=tmp_path / "ca.pem", certificate=tmp_path / "own.pem", key=tmp_path / "own.key")
    with broker_of(tmp_path, "mtls://127.0.0.1:0") as broker:
        async with (
            Admin(broker.address, tls=files) as admin,
            Producer(broker.address, tls=files) as producer,
            Consumer(broker.address, tls=files) as consumer,
        ):
            await admin.create_topic("topic")
            await consumer.assign_topics("topic")
            first = admin._connection._channels[0]
            for number in range(3):
                strangers.issue("eve").save(tmp_path, "own")
                for client in (admin, producer, consumer):
                    client._connection._look_at = 0  # a second has passed
                await (await producer.send("topic", b"%d" % number))
                assert (await admin.health()).status == "healthy"
                assert (await anext(aiter(consumer))).value == b"%d" % number
            assert admin._connection._channels[0] is not first
            assert not admin._connection._retired
            with caplog.at_level(logging.WARNING, "takhin.client"):
                put(tmp_path / "own.key", b"")
                for _ in range(3):
                    admin._connection._look_at = 0
                    assert (await admin.health()).status == "healthy"
            assert caplog.text.count("the former certificates stay in use") == 1


async def test_a_new_authority_is_trusted_while_calls_fail(tmp_path, authority, strangers):
    """A client that was connected before waits until its file has the authority of the broker's new one."""
    authority.issue().save(tmp_path)
    put(tmp_path / "ca.pem", authority.pem)
    with broker_of(tmp_path, "tls://127.0.0.1:0") as broker:
        address = broker.address
        admin = Admin(address, tls=TlsFiles(ca=tmp_path / "ca.pem"))
        await admin.open()
        assert (await admin.health()).status == "healthy"
    strangers.issue().save(tmp_path)
    with broker_of(tmp_path, f"tls://{address.rpartition('//')[2]}"):
        waiting = asyncio.create_task(admin.health())
        while admin._connection._diagnosis._reason != "SERVER_AUTHORITY":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        put(tmp_path / "ca.pem", strangers.pem)
        assert (await waiting).status == "healthy"
        await admin.close()


@pytest.mark.parametrize("kind", ["plain", "encrypted", "distrusted"])
async def test_what_does_not_heal_is_raised_at_once(addresses, authority, strangers, kind):
    """Clients with every retry left do not wait for what only a change of settings mends."""
    to, trusted, reason = {
        "plain": ("tls", None, "SERVER_WANTS_TLS"),
        "encrypted": ("plain", authority, "SERVER_IS_PLAIN"),
        "distrusted": ("tls", strangers, "SERVER_AUTHORITY"),
    }[kind]
    options = {"tls": trusted and tls(trusted)}
    address = addresses[to]
    began = time.monotonic()
    with pytest.raises(HandshakeError) as caught:
        async with Producer(address, **options) as producer:
            await producer.send("topic", b"value")
    assert caught.value.details["reason"] == reason
    async with Consumer(address, **options) as consumer:
        with pytest.raises(HandshakeError):
            await consumer.assign_topics("topic")
    async with Consumer(address, group_id="g", topics=["topic"], **options) as member:
        with pytest.raises(HandshakeError):
            await anext(aiter(member))
    assert await asyncio.to_thread(_refused_blocking, address, options) == reason
    assert time.monotonic() - began < 6


def _refused_blocking(address, options):
    with sync.Admin(address, **options) as admin, pytest.raises(HandshakeError) as caught:
        admin.health()
    return caught.value.details["reason"]


async def test_a_client_that_is_turned_away_waits_until_that_is_certain(addresses, authority, monkeypatch):
    """Without the certificate that the broker asks for, a client gives up when it was so for a while."""
    monkeypatch.setitem(handshakes.CERTAIN_SECONDS, MISSING, 0.2)
    monkeypatch.setattr(handshakes, "AGAIN_SECONDS", 0.01)
    began = time.monotonic()
    async with Admin(addresses["mtls"], tls=tls(authority)) as admin:
        with pytest.raises(HandshakeError) as caught:
            await admin.health()
    assert caught.value.details["reason"] == MISSING
    assert 0.2 <= time.monotonic() - began < 5


async def test_files_named_by_str(tmp_path, authority, addresses):
    """TlsFiles takes what open() takes, and follows it."""
    put(tmp_path / "ca.pem", authority.pem)
    assert await healthy(addresses["tls"], tls=TlsFiles(ca=str(tmp_path / "ca.pem")))
    assert TlsFiles(ca="ca.pem") == TlsFiles(ca=Path("ca.pem"))
