"""Where a broker listens: several addresses, TLS, socket files; what it refuses to serve."""

from __future__ import annotations

import os
import pty
import signal
import socket
import stat
import subprocess
import time

import grpc
import pytest

from blackbox.broker_process import Broker, command, environment
from blackbox.clients import CHANNEL_OPTIONS, connected
from certificates import Authority, put
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

EVENTUALLY_S = 10.0


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def certificates(tmp_path, authority):
    """The settings of a broker with certificates."""
    authority.issue().save(tmp_path)
    put(tmp_path / "clients.pem", authority.pem)
    return {
        "tls_certificate_file": tmp_path / "broker.pem",
        "tls_key_file": tmp_path / "broker.key",
        "tls_client_ca_file": tmp_path / "clients.pem",
    }


def refused(*args, **settings):
    """The one line with which `takhin serve` ends, with exit code 2."""
    done = subprocess.run(
        command("serve", *args),
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    line = done.stderr.splitlines()[-1]
    assert line.startswith("takhin: ")
    assert "Traceback" not in done.stderr
    return line


def healthy(address):
    with connected(address) as stub:
        return stub.HealthCheck(pb.HealthCheckRequest(), timeout=EVENTUALLY_S).status == "healthy"


def until(condition):
    deadline = time.monotonic() + EVENTUALLY_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reports(broker, event):
    until(lambda: event in broker.log())


def handshake(address, version):
    """The exit code of openssl, which connects with this version of TLS alone."""
    host = address.rpartition("//")[2]
    line = ["openssl", "s_client", "-connect", host, "-cipher", "DEFAULT@SECLEVEL=0", "-alpn", "h2", version]
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode


def test_several_addresses(data_dir, tmp_path, authority, certificates):
    """Plain, TLS, mutual TLS and a socket file are served side by side, and the ready line names all."""
    path = tmp_path / "socket"
    listen = f"unix:{path},tls://127.0.0.1:0,127.0.0.1:0,mtls://127.0.0.1:0"
    with Broker(data_dir, listen=listen, **certificates) as broker:
        unix, tls, plain, mtls = broker.addresses
        assert unix == f"unix:{path}"
        assert broker.address == tls.removeprefix("tls://")  # the first with a port
        assert healthy(plain)
        assert healthy(unix)
        own = authority.issue("ann")
        for address, pair in ((tls, None), (mtls, own)):
            credentials = grpc.ssl_channel_credentials(
                authority.pem, pair and pair.key, pair and pair.certificate
            )
            target = address.rpartition("//")[2]
            with grpc.secure_channel(target, credentials, CHANNEL_OPTIONS) as channel:
                assert TakhinServiceStub(channel).ListTopics(pb.ListTopicsRequest(), timeout=EVENTUALLY_S)
        assert [handshake(tls, f"-tls1{minor}") for minor in ("", "_1", "_2", "_3")] == [1, 1, 0, 0]
    assert not path.exists()


def test_the_ready_line_for_people(data_dir, tmp_path):
    """The sentence names all addresses, too, and the flag may be given several times."""
    args = ("--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/s", "--data-dir", data_dir)
    with subprocess.Popen(
        command("serve", *args, "--log-format", "human"), stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        line = process.stdout.readline()
        process.terminate()
    assert process.returncode == 0
    assert f" and unix:{tmp_path}/s, data in " in line
    assert " ready on 127.0.0.1:" in line


def test_sighup_renews_at_once(data_dir, authority, certificates):
    """After SIGHUP the files are looked at now; it is logged, also if they are broken or have not changed."""
    folder = certificates["tls_key_file"].parent
    with Broker(data_dir, listen="tls://127.0.0.1:0", tls_look_ms=10_000, **certificates) as broker:
        broker.send_signal(signal.SIGHUP)
        reports(broker, '"renewed": false')
        authority.issue(days=5).save(folder)
        broker.send_signal(signal.SIGHUP)
        reports(broker, '"renewed": true')
        reports(broker, "certificates_expire")
        put(folder / "broker.pem", b"")
        broker.send_signal(signal.SIGHUP)
        reports(broker, "certificates_refused")
        assert broker.running


def test_a_closed_terminal_stops_the_broker(data_dir):
    """SIGHUP stops a broker whose terminal was closed, as it always did; elsewhere it does not."""
    with Broker(data_dir) as broker:  # without certificates, too: `systemctl reload` sends it
        broker.send_signal(signal.SIGHUP)
        assert healthy(broker.address)
    child, terminal = pty.fork()
    if child == 0:
        os.execve(
            command()[0], command("serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir), environment()
        )
    said = b""
    while b" ready on " not in said and b'"ready"' not in said:
        said += os.read(terminal, 4_096)
    os.kill(child, signal.SIGHUP)
    time.sleep(0.1)  # nothing must happen
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0


EXPOSED = {
    "0.0.0.0:0": "neither encrypted nor authenticated",
    "[::]:0": "neither encrypted nor authenticated",
    "192.0.2.1:0": "neither encrypted nor authenticated",
    "broker.example:0": "neither encrypted nor authenticated",
    "127.0.0.1:0,0.0.0.0:0": "neither encrypted nor authenticated",
    "tls://0.0.0.0:0": "need not say who they are",
}


@pytest.mark.parametrize("listen", EXPOSED)
def test_other_machines_are_not_served_unawares(data_dir, listen, certificates):
    """Beyond loopback, TLS and identity are needed; the sentence says what to do, and nothing is made."""
    line = refused("--listen", listen, "--data-dir", data_dir, **certificates)
    assert EXPOSED[listen] in line
    assert "mtls://" in line
    assert "--allow-plaintext" in line
    assert not data_dir.exists()


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "tls://0.0.0.0:0"])
def test_it_may_be_allowed(data_dir, listen, certificates):
    """With allow_plaintext such an address is served, with a warning."""
    with Broker(data_dir, listen=listen, allow_plaintext="true", **certificates) as broker:
        assert '"event": "plain_traffic"' in broker.log()
        assert EXPOSED[listen] in broker.log()


def test_mutual_tls_may_face_the_world(data_dir, certificates):
    """mtls:// needs no leave, and no warning."""
    with Broker(data_dir, listen="mtls://0.0.0.0:0", **certificates) as broker:
        assert "plain_traffic" not in broker.log()


@pytest.mark.parametrize("mode", ["0600", "0660", "0666"])
def test_the_mode_of_a_socket(data_dir, tmp_path, mode):
    """A socket file has the mode of the setting, whatever the umask is."""
    umask = os.umask(0)
    try:
        with Broker(data_dir, listen=f"unix:{tmp_path}/s", socket_mode=mode) as broker:
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == int(mode, 8)
            assert broker.address == f"unix:{tmp_path}/s"
    finally:
        os.umask(umask)


def test_a_socket_that_was_left(data_dir, tmp_path):
    """The socket of a killed broker is replaced; that of a living one is not, and is served on."""
    path = tmp_path / "s"
    with Broker(data_dir, listen=f"unix:{path}") as broker:
        broker.kill()
    assert path.is_socket()
    with Broker(data_dir, listen=f"unix:{path}") as broker:
        line = refused("--listen", f"unix:{path}", "--data-dir", tmp_path / "other")
        assert line == f"takhin: cannot listen on unix:{path}: another process listens there"
        assert healthy(broker.address)


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
def test_what_is_not_ours_is_left_alone(data_dir, tmp_path, make):
    """Where something else than a dead socket lies, the start is refused, and it is still there."""
    path = tmp_path / "s"
    kept = NOT_FREE[make][0](path)
    before = path.lstat()
    line = refused("--listen", f"unix:{path}", "--data-dir", data_dir)
    assert NOT_FREE[make][1] in line
    assert path.lstat().st_ino == before.st_ino
    for open_socket in kept or ():
        open_socket.close()


def test_a_socket_without_a_folder(data_dir, tmp_path):
    """The sentence names what is missing."""
    line = refused("--listen", f"unix:{tmp_path}/none/s", "--data-dir", data_dir)
    assert line == f"takhin: cannot listen on unix:{tmp_path}/none/s: No such file or directory"


def test_each_address_has_its_connections(data_dir, tmp_path):
    """A crowd at one address is counted and told, and keeps nobody out at another."""
    listen = f"127.0.0.1:0,unix:{tmp_path}/s"
    with Broker(data_dir, listen=listen, rpc_connections_max=20, rpc_handshake_ms_max=60_000) as broker:
        host, _, port = broker.address.rpartition(":")
        for make in (
            lambda: socket.create_connection((host, int(port))),
            lambda: _connected(tmp_path / "s"),
        ):
            crowd = [make() for _ in range(20)]
            until(lambda: "connections_full" in broker.log())
            line = next(line for line in broker.log().splitlines() if "connections_full" in line)
            assert "to 127.0.0.1" in line
            for each in crowd:
                each.close()
            until(lambda: "connections_free" in broker.log())


def _connected(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection
