"""Certificates of a serving broker: what clients see of them, and that a renewal needs no restart."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager, suppress

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import Authority, Pair, encrypted, put
from takhin.errors import StartupError
from takhin.testing import MemoryBroker
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
ROTATIONS = 20
EVENTUALLY_S = 5.0


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def strangers():
    """An authority that nobody here trusts."""
    return Authority("strangers")


@pytest.fixture
def folder(tmp_path, authority):
    """A folder with broker.pem, broker.key and clients.pem, the authority of clients."""
    authority.issue().save(tmp_path)
    put(tmp_path / "clients.pem", authority.pem)
    return tmp_path


@contextmanager
def serving(folder, listen="tls://127.0.0.1:0,mtls://127.0.0.1:0", **settings):
    """A broker with the certificates of the folder, which looks at them every 20 ms."""
    values = {
        "listen": listen,
        "tls.certificate_file": str(folder / "broker.pem"),
        "tls.key_file": str(folder / "broker.key"),
        "tls.client_ca_file": str(folder / "clients.pem"),
        "tls.look_ms": 20,
    }
    with MemoryBroker(values | settings) as broker:
        yield broker


def port_of(address):
    return address.rpartition("//")[2]


def health(address, trusted, own: Pair | None = None):
    """What HealthCheck says on a connection of its own. Raises grpc.RpcError."""
    credentials = grpc.ssl_channel_credentials(trusted, own and own.key, own and own.certificate)
    with grpc.secure_channel(port_of(address), credentials, OPTIONS) as channel:
        return TakhinServiceStub(channel).HealthCheck(pb.HealthCheckRequest(), timeout=EVENTUALLY_S)


def shown(address):
    """The certificate that a new handshake gets, in PEM."""
    host, _, port = port_of(address).rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=EVENTUALLY_S).strip().encode()


def leaf(pair):
    return pair.certificate.strip().split(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----"


async def eventually(condition):
    """Wait until it is true, by looking."""
    async with asyncio.timeout(EVENTUALLY_S):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  no handshake sets an event
            await asyncio.sleep(0.01)


def test_a_client_is_known_by_its_certificate(folder, authority, strangers):
    """tls:// asks for none; mtls:// lets in only clients with a valid one of a known authority."""
    known = authority.issue("ann", usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    with serving(folder) as broker:
        tls, mtls = broker.addresses
        assert health(tls, authority.pem).status == "healthy"
        assert health(mtls, authority.pem, known).status == "healthy"
        for own in (None, strangers.issue("ann"), authority.issue("ann", days=-1)):
            with pytest.raises(grpc.RpcError) as caught:
                health(mtls, authority.pem, own)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError):
            health(tls, strangers.pem)


@pytest.mark.parametrize(
    "make", [lambda: rsa.generate_private_key(65_537, 2_048), lambda: ec.generate_private_key(ec.SECP384R1())]
)
def test_keys_that_grpc_takes(folder, authority, make):
    """RSA and P-384 are served as P-256 is."""
    authority.issue(key=make()).save(folder)
    with serving(folder) as broker:
        assert health(broker.addresses[0], authority.pem).status == "healthy"


def test_a_chain_is_shown(folder, authority):
    """A certificate of an intermediate authority is trusted through the root, if the chain is in the file."""
    between = Authority("between", parent=authority)
    pair = between.issue()
    Pair(leaf(pair) + b"\n" + between.pem, pair.key).save(folder)
    with serving(folder) as broker:
        assert health(broker.addresses[0], authority.pem).status == "healthy"


class Load:
    """Calls on new connections and on one that stays, and a produce stream, within a block."""

    def __init__(self, address, trusted):
        self._address, self._trusted = address, trusted
        self._end = threading.Event()
        self.calls = self.failures = 0
        self._threads = [
            threading.Thread(target=work) for work in (self._anew, self._staying, self._streaming)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _count(self, call):
        try:
            call()
            self.calls += 1
        except grpc.RpcError:
            self.failures += 1

    def _anew(self):
        while not self._end.is_set():
            self._count(lambda: health(self._address, self._trusted))

    def _channel(self):
        credentials = grpc.ssl_channel_credentials(self._trusted)
        return grpc.secure_channel(port_of(self._address), credentials, OPTIONS)

    def _staying(self):
        with self._channel() as channel:
            stub = TakhinServiceStub(channel)
            request = pb.ProduceMessageRequest(topic="load", records=[pb.Record(value=b"x")] * 10)
            while not self._end.is_set():
                self._count(lambda: stub.ProduceMessage(request, timeout=EVENTUALLY_S))

    def _streaming(self):
        def requests():
            while not self._end.is_set():
                yield pb.ProduceMessageRequest(topic="load", record=pb.Record(value=b"x"))

        with self._channel() as channel:
            answers = TakhinServiceStub(channel).ProduceMessageStream(requests())
            self._count(lambda: [self._count(lambda: None) for _ in answers])


async def test_rotations_under_load(folder, authority, figures):
    """20 renewals while clients call: no call fails, and each new handshake gets the new certificate."""
    with serving(folder) as broker:
        tls = broker.addresses[0]
        with grpc.secure_channel(port_of(tls), grpc.ssl_channel_credentials(authority.pem)) as channel:
            TakhinServiceStub(channel).CreateTopic(pb.CreateTopicRequest(name="load"))
        with Load(tls, authority.pem) as load:
            for _ in range(ROTATIONS):
                before = load.calls
                pair = authority.issue().save(folder)
                await eventually(lambda pair=pair: shown(tls) == leaf(pair))
                await eventually(lambda before=before: load.calls > before)
        assert load.failures == 0
        figures(f"{ROTATIONS} certificate rotations: {load.calls} calls, {load.failures} failed")


def _other_key(authority, folder):
    put(folder / "broker.key", authority.issue().key)


def _chain_in_wrong_order(authority, folder):
    between = Authority("between", parent=authority)
    pair = between.issue()
    Pair(leaf(pair) + b"\n" + authority.pem + between.pem, pair.key).save(folder)


def _folder_instead(_authority, folder):
    (folder / "broker.pem").unlink()
    (folder / "broker.pem").mkdir()


def _pipe_instead(_authority, folder):
    (folder / "broker.pem").unlink()
    os.mkfifo(folder / "broker.pem")


BROKEN = {
    "the key of another": (_other_key, "does not belong to"),
    "garbage": (lambda a, f: put(f / "broker.pem", b"\0garbage"), "has no certificate in PEM"),
    "an empty file": (lambda a, f: put(f / "broker.pem", b""), "has no certificate in PEM"),
    "an empty key": (lambda a, f: put(f / "broker.key", b""), "has no key in PEM"),
    "no file": (lambda a, f: (f / "broker.key").unlink(), "cannot read"),
    "a folder": (_folder_instead, "is not a file"),
    "a pipe": (_pipe_instead, "is not a file"),
    "a large file": (lambda a, f: put(f / "broker.pem", bytes(2 << 20)), "is larger than"),
    "expired": (lambda a, f: a.issue(days=-0.1).save(f), "has expired on"),
    "not valid yet": (lambda a, f: a.issue(begins_in_days=1).save(f), "is not valid before"),
    "a passphrase": (lambda a, f: put(f / "broker.key", encrypted(a.issue().key)), "has a passphrase"),
    "Ed25519": (
        lambda a, f: a.issue(key=ed25519.Ed25519PrivateKey.generate()).save(f),
        "of a sort that gRPC",
    ),
    "P-521": (
        lambda a, f: a.issue(key=ec.generate_private_key(ec.SECP521R1())).save(f),
        "of a sort that gRPC",
    ),
    "for clients": (
        lambda a, f: a.issue(usages=[ExtendedKeyUsageOID.CLIENT_AUTH]).save(f),
        "not for servers",
    ),
    "no chain": (_chain_in_wrong_order, "is no chain"),
    "expired clients": (
        lambda a, f: put(f / "clients.pem", a.issue(days=-1).certificate),
        "have expired",
    ),
}
"""What may become of the files, and what is said of it."""
EVERY_BROKEN = pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=BROKEN)


@EVERY_BROKEN
def test_a_broken_pair_at_the_start_is_refused(folder, authority, spoil, words):
    """A broker does not start with files that it could not use, and says what is wrong with which."""
    spoil(authority, folder)
    with pytest.raises(StartupError) as caught, serving(folder):
        pass
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


async def test_a_broken_pair_changes_nothing(folder, authority):
    """Whatever becomes of the files, handshakes get the old certificate, and health says so."""
    with serving(folder) as broker:
        tls, mtls = broker.addresses
        client = authority.issue("ann")
        for spoil, words in BROKEN.values():
            pair = authority.issue().save(folder)
            await eventually(lambda pair=pair: shown(tls) == leaf(pair))
            await eventually(lambda: health(tls, authority.pem).status == "healthy")
            spoil(authority, folder)
            await eventually(lambda: health(mtls, authority.pem, client).status != "healthy")
            (reason,) = health(tls, authority.pem).reasons
            assert words in reason
            assert "the former certificates stay in use" in reason
            assert shown(tls) == leaf(pair)
            if (folder / "broker.pem").is_dir():
                (folder / "broker.pem").rmdir()
            put(folder / "clients.pem", authority.pem)


async def test_authorities_of_clients_are_renewed(folder, authority, strangers):
    """Another client_ca_file is in force for new connections without a restart."""
    ann, stranger = authority.issue("ann"), strangers.issue("eve")
    with serving(folder) as broker:
        mtls = broker.addresses[1]
        assert health(mtls, authority.pem, ann)
        put(folder / "clients.pem", strangers.pem)

        def welcome(own):
            try:
                return health(mtls, authority.pem, own).status == "healthy"
            except grpc.RpcError:
                return False

        await eventually(lambda: welcome(stranger))
        assert not welcome(ann)


async def test_a_certificate_that_expires_soon(folder, authority):
    """Health says so from 14 days before, until it is renewed."""
    authority.issue(days=13.9).save(folder)
    with serving(folder) as broker:
        (reason,) = health(broker.addresses[0], authority.pem).reasons
        assert f"'CN=localhost' in {folder / 'broker.pem'} expires on" in reason
        authority.issue(days=14.1).save(folder)
        await eventually(lambda: health(broker.addresses[0], authority.pem).status == "healthy")


@pytest.mark.parametrize("missing", ["tls.certificate_file", "tls.key_file", "tls.client_ca_file"])
def test_a_file_that_is_not_named(folder, missing):
    """A listener that needs a file says which setting names it."""
    with pytest.raises(StartupError, match=missing), serving(folder, **{missing: ""}):
        pass


def test_tls_needs_no_authority_of_clients(folder, authority):
    """Without mtls:// there is no need for tls.client_ca_file."""
    with serving(folder, "tls://127.0.0.1:0", **{"tls.client_ca_file": ""}) as broker:
        assert health(broker.addresses[0], authority.pem).status == "healthy"


HELLO_OF_TLS = b"\x16\x03\x01\x02\x00\x01"
"""How a handshake begins, and the length of what never comes."""


def test_who_begins_no_handshake_is_turned_away(folder, authority):
    """Silence, half a handshake and garbage end in rpc.handshake_ms_max, and keep nobody else out."""
    with serving(folder, **{"rpc.handshake_ms_max": 200, "rpc.connections_max": 50}) as broker:
        host, _, port = port_of(broker.addresses[0]).rpartition(":")
        with ExitStack() as crowd:
            strangers = [crowd.enter_context(socket.create_connection((host, int(port)))) for _ in range(40)]
            for stranger, said in zip(
                strangers, itertools.cycle([b"", HELLO_OF_TLS, b"garbage\r\n"]), strict=False
            ):
                stranger.settimeout(EVENTUALLY_S)
                stranger.sendall(said)
            assert health(broker.addresses[0], authority.pem).status == "healthy"
            for stranger in strangers:
                with suppress(ConnectionResetError):
                    assert stranger.recv(1_024) == b""  # closed, without a word
        assert health(broker.addresses[0], authority.pem).status == "healthy"
