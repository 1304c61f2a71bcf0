"""Where a broker listens: several addresses, TLS, socket files; what it refuses to serve."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time

import grpc
import pytest

import forked
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
    done = forked.run(
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
    with forked.Popen(
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
