"""Certificates and tokens: what a client does with its `tls` and `token`, on real connections."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import grpc
import pytest

from client.relay import Relay
from takhin.client import Admin, Retry, Tls
from takhin.client.errors import UnreachableError
from takhin.v1 import takhin_pb2 as pb

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
ONCE = Retry(attempts_max=1)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with a self-signed certificate of localhost, cert.pem and key.pem, and another, other.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("cert", "other"):
        subprocess.run(
            [*new.split(), *names, "-keyout", f"{name}.key", "-out", f"{name}.pem"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture
def server_context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "cert.key")
    context.set_alpn_protocols(["h2"])
    return context


def tls(folder, roots="cert", own=None):
    return Tls(
        root_certificates=(folder / f"{roots}.pem").read_bytes(),
        certificate_chain=own and (folder / f"{own}.pem").read_bytes(),
        private_key=own and (folder / f"{own}.key").read_bytes(),
    )


async def healthy(address, **options):
    async with Admin(address, retry=ONCE, **options) as admin:
        return (await admin.health()).status == "healthy"


async def test_a_server_is_trusted_by_its_root(server, certificates, server_context):
    """A client connects with the right root certificate, and not with another one or in plain text."""
    async with Relay(server, tls=server_context) as relay:
        assert await healthy(relay.address, tls=tls(certificates), token="secret")
        with pytest.raises(UnreachableError):
            await healthy(relay.address, tls=tls(certificates, roots="other"))
        with pytest.raises(UnreachableError):
            await healthy(relay.address)


async def test_a_client_shows_its_certificate(server, certificates, server_context):
    """If the server demands a certificate, a client with its own gets in, and one without does not."""
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificates / "other.pem")
    async with Relay(server, tls=server_context) as relay:
        assert await healthy(relay.address, tls=tls(certificates, own="other"))
        with pytest.raises(UnreachableError):
            await healthy(relay.address, tls=tls(certificates))


async def test_a_token_goes_with_every_call():
    """Every call carries `authorization: Bearer …`, as seen by a server that records what it receives."""
    seen = []

    class Noting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, details):
            seen.append(dict(details.invocation_metadata).get("authorization"))
            return await continuation(details)

    async def health(request, context):
        return pb.HealthCheckResponse(status="healthy")

    handler = grpc.unary_unary_rpc_method_handler(
        health, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
    )
    listening = grpc.aio.server(interceptors=[Noting()])
    listening.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("takhin.v1.TakhinService", {"HealthCheck": handler})]
    )
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    assert await healthy(f"127.0.0.1:{port}", token="secret")
    assert await healthy(f"127.0.0.1:{port}")
    await listening.stop(None)
    assert seen == ["Bearer secret", None]
