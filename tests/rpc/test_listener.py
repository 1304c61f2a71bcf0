"""Where a broker may listen, and where not: addresses that others reach, socket files, crowds."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from contextlib import ExitStack

import grpc
import pytest

from certificates import Authority, put
from takhin.errors import StartupError
from takhin.rpc.connections import DESCRIPTORS
from takhin.testing import MemoryBroker
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

EVENTUALLY_S = 10.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Settings that name certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    authority.issue().save(folder)
    return {
        "tls.certificate_file": str(folder / "broker.pem"),
        "tls.key_file": str(folder / "broker.key"),
        "tls.client_ca_file": str(put(folder / "clients.pem", authority.pem)),
    }


def refused(listen, **settings):
    """The sentence with which a start is refused."""
    with pytest.raises(StartupError) as caught, MemoryBroker({"listen": listen, **settings}):
        pass
    return str(caught.value)


def health(address):
    """What HealthCheck says on a connection of its own."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return TakhinServiceStub(channel).HealthCheck(pb.HealthCheckRequest(), timeout=EVENTUALLY_S)


def until(condition):
    deadline = time.monotonic() + EVENTUALLY_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


EXPOSED = {
    "0.0.0.0:0": "neither encrypted nor authenticated",
    "[::]:0": "neither encrypted nor authenticated",
    "192.0.2.1:0": "neither encrypted nor authenticated",
    "broker.example:0": "neither encrypted nor authenticated",
    "127.0.0.1:0,0.0.0.0:0": "neither encrypted nor authenticated",
    "tls://0.0.0.0:0": "need not say who they are",
}


@pytest.mark.parametrize("listen", EXPOSED)
def test_other_machines_are_not_served_unawares(listen, certificates):
    """Beyond loopback, TLS and identity are needed, and the sentence says what to do."""
    sentence = refused(listen, **certificates)
    assert EXPOSED[listen] in sentence
    assert "mtls://" in sentence
    assert "--allow-plaintext" in sentence


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "tls://0.0.0.0:0", "mtls://0.0.0.0:0"])
def test_it_may_be_allowed(listen, certificates):
    """With allow_plaintext such an address is served; mtls:// needs no leave."""
    allowed = "false" if listen.startswith("mtls") else "true"
    with MemoryBroker({"listen": listen, "allow_plaintext": allowed, **certificates}) as broker:
        assert broker.addresses[0].startswith(listen[:-1])


def test_tokens_are_identity(certificates, tmp_path):
    """With access.enabled other machines are served over TLS, and not without encryption."""
    settings = {"access.enabled": "true", "data_dir": str(tmp_path), **certificates}
    with MemoryBroker({"listen": "tls://0.0.0.0:0", **settings}):
        pass
    assert "tokens included, is not encrypted" in refused("0.0.0.0:0", **settings)


@pytest.mark.parametrize("mode", ["0600", "0660", "0666"])
def test_the_mode_of_a_socket(tmp_path, mode):
    """A socket file has the mode of the setting, whatever the umask is, and goes when the broker stops."""
    umask = os.umask(0)
    try:
        with MemoryBroker({"listen": f"unix:{tmp_path}/s", "socket_mode": mode}) as broker:
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == int(mode, 8)
            assert broker.address == f"unix:{tmp_path}/s"
            assert health(broker.address).status == "healthy"
            assert "another process listens there" in refused(broker.address)
            assert health(broker.address).status == "healthy"
    finally:
        os.umask(umask)
    assert not (tmp_path / "s").exists()


def _file(path):
    path.write_text("mine")


def _link_to_socket(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path.with_name("target")))
    path.symlink_to("target")


def _busy_socket(path):
    """A program that listens and is too busy to accept."""
    busy = socket.socket(socket.AF_UNIX)
    busy.bind(str(path))
    busy.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(path))
    return busy, waiting


NOT_FREE = {
    "file": (_file, "something that is not a socket"),
    "folder": (lambda path: path.mkdir(), "something that is not a socket"),
    "link": (_link_to_socket, "something that is not a socket"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "something that is not a socket"),
    "pipe": (os.mkfifo, "something that is not a socket"),
    "busy": (_busy_socket, "another process listens there"),
}


@pytest.mark.parametrize("make", NOT_FREE)
def test_what_is_not_ours_is_left_alone(tmp_path, make):
    """Where something else than a dead socket lies, the start is refused, and it is still there."""
    path = tmp_path / "s"
    kept = NOT_FREE[make][0](path)
    before = path.lstat()
    assert NOT_FREE[make][1] in refused(f"unix:{path}")
    assert path.lstat().st_ino == before.st_ino
    for open_socket in kept or ():
        open_socket.close()


def test_a_dead_socket_is_replaced(tmp_path):
    """The socket that a killed program left is no obstacle."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    with MemoryBroker({"listen": f"unix:{tmp_path}/s"}) as broker:
        assert health(broker.address).status == "healthy"


def test_a_socket_without_a_folder(tmp_path):
    """The sentence names what is missing."""
    sentence = refused(f"unix:{tmp_path}/none/s")
    assert sentence == f"cannot listen on unix:{tmp_path}/none/s: No such file or directory"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_socket_where_it_may_not_write(tmp_path):
    """The sentence says that the folder is the obstacle."""
    tmp_path.chmod(0o500)
    assert "may not write into its folder" in refused(f"unix:{tmp_path}/s")


def test_two_brokers_at_one_time(tmp_path):
    """While one broker looks whether a socket is dead, another one does not."""
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert "has locked its folder" in refused(f"unix:{tmp_path}/s")
    os.close(folder)


def test_a_failed_start_leaves_nothing(tmp_path):
    """If a later address cannot be served, the earlier ones are free again, and no socket file is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        sentence = refused(f"unix:{tmp_path}/s,{host}:{port}")
    assert f"cannot listen on {host}:{port}: another process listens there" in sentence
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="nobody looks where there is no table of connections")
@pytest.mark.parametrize("crowded", [0, 1], ids=["tcp", "unix"])
def test_each_address_has_its_connections(tmp_path, crowded):
    """The broker names the address that is crowded, and keeps nobody out at the other."""
    listen = f"127.0.0.1:0,unix:{tmp_path}/s"
    limits = {"rpc.connections_max": 20, "rpc.handshake_ms_max": 60_000}
    with MemoryBroker({"listen": listen, **limits}) as broker:
        other = broker.addresses[1 - crowded]
        with ExitStack() as crowd:
            for _ in range(20):
                crowd.enter_context(_connection(broker.addresses[crowded]))
            until(lambda: health(other).reasons)
            (reason,) = health(other).reasons
            assert f"all 20 connections (rpc.connections_max) to {broker.addresses[crowded]} are" in reason
        until(lambda: not health(other).reasons)


def _connection(address):
    kind, _, path = address.partition(":")
    if kind != "unix":
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection
