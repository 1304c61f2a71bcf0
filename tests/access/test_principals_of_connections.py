"""Who a caller is by its connection: a client certificate, or a unix socket."""

from __future__ import annotations

from contextlib import asynccontextmanager

import grpc
import pytest

from access.support import EVERYTHING, Keeper, bearer, methods
from certificates import Authority
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

STATUS = grpc.StatusCode
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
LIST = pb.ListTopicsRequest()


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def mtls(serving, authority, tmp_path):
    """Serves with mTLS; gives a function that makes channels with certificates."""
    authority.issue().save(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    files = {
        "tls__certificate_file": tmp_path / "broker.pem",
        "tls__key_file": tmp_path / "broker.key",
        "tls__client_ca_file": tmp_path / "ca.pem",
    }

    @asynccontextmanager
    async def serve(**settings):
        async with serving(listen="mtls://127.0.0.1:0", **files, **settings) as server:
            target = server.address.removeprefix("mtls://")

            def channel(pair):
                of_client = (pair.key, pair.certificate) if pair else (None, None)
                return grpc.aio.secure_channel(
                    target, grpc.ssl_channel_credentials(authority.pem, *of_client), OPTIONS
                )

            yield channel

    return serve


async def code_of(channel, metadata=()):
    """The status of a ListTopics call."""
    async with channel:
        try:
            await TakhinServiceStub(channel).ListTopics(LIST, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return STATUS.OK


async def test_principals_of_certificates(mtls, authority, tmp_path):
    """The first alternative name counts, then the common name; mappings come before; a token before all."""
    keeper = Keeper(tmp_path)
    for principal in ("billing", "spiffe://x/other", "host.example"):
        keeper.rules("allow read topic *", principal=principal)
    token = keeper.token("billing")
    uri = authority.issue("cn", names=["spiffe://x/ns/billing"])
    async with mtls(access__certificate_principals="spiffe://x/ns/*=*") as channel:
        assert await code_of(channel(uri)) is STATUS.OK
        assert await code_of(channel(authority.issue("cn", names=["spiffe://x/other"]))) is STATUS.OK
        assert await code_of(channel(authority.issue("billing", names=["host.example"]))) is STATUS.OK
        assert await code_of(channel(authority.issue("billing", names=[]))) is STATUS.OK
        unknown = authority.issue("billing", names=["unknown.example", "host.example"])
        assert await code_of(channel(unknown)) is STATUS.PERMISSION_DENIED
        assert await code_of(channel(unknown), bearer(token)) is STATUS.OK
        assert await code_of(channel(uri), bearer("tkn_0")) is STATUS.UNAUTHENTICATED


async def test_a_common_name_counts_alone(mtls, authority, tmp_path):
    """Beside alternative names a common name gives nothing, also where a mapping is about it."""
    Keeper(tmp_path).rules("allow read topic *", principal="boss")
    async with mtls(access__certificate_principals="cn=boss") as channel:
        assert await code_of(channel(authority.issue("cn", names=[]))) is STATUS.OK
        named = authority.issue("cn", names=["unknown.example"])
        assert await code_of(channel(named)) is STATUS.PERMISSION_DENIED


async def test_no_handler_runs_with_a_wrong_certificate(mtls, recorder, authority, tmp_path):
    """A certificate of another authority, none, or one of a principal without rights lets no handler run."""
    keeper = Keeper(tmp_path)
    keeper.rules(*EVERYTHING, principal="good")
    wrong = {
        "another authority": Authority("another").issue("good", names=[]),
        "none": None,
        "expired": authority.issue("good", names=[], days=-0.5, begins_in_days=-1),
        "without rights": authority.issue("unknown", names=["good.example"]),
    }
    async with mtls() as channel:
        for what, pair in wrong.items():
            async with channel(pair) as connection:
                for method in methods():
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await method.call(connection)
                    expected = STATUS.PERMISSION_DENIED if what == "without rights" else STATUS.UNAVAILABLE
                    assert raised.value.code() is expected, (what, method.path)
        assert recorder.called == []
        assert await code_of(channel(authority.issue("good", names=[]))) is STATUS.OK


@pytest.mark.parametrize(
    ("mode", "rules", "expected"),
    [
        ("0600", [], STATUS.OK),
        ("0660", [], STATUS.PERMISSION_DENIED),
        ("0666", ["allow read topic *"], STATUS.OK),
    ],
)
async def test_principals_of_a_socket(serving, tmp_path, mode, rules, expected):
    """A socket that its owner alone may use gives all rights; another one those of its principal."""
    keeper = Keeper(tmp_path)
    keeper.rules(*rules, principal="here")
    settings = {"access__unix_principal": "here", "socket_mode": mode}
    async with serving(listen=f"unix:{tmp_path}/s", **settings) as server:
        assert await code_of(grpc.aio.insecure_channel(server.address, OPTIONS)) is expected
        wrong = grpc.aio.insecure_channel(server.address, OPTIONS)
        assert await code_of(wrong, bearer("tkn_0")) is STATUS.UNAUTHENTICATED


async def test_the_first_token_over_a_socket(serving, tmp_path):
    """Over the owner's socket a token can be made when there is none yet."""
    async with serving(listen=f"unix:{tmp_path}/s,127.0.0.1:0") as server:
        address = next(str(each) for each in server.addresses if str(each).startswith("unix"))
        async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
            stub = TakhinServiceStub(channel)
            made = await stub.CreateToken(pb.CreateTokenRequest(principal="boss"))
            rule = pb.AccessRule(principal="boss", action="read", topic="*")
            assert (await stub.ChangeAccess(pb.ChangeAccessRequest(put=[rule]))).success
        target = next(str(each) for each in server.addresses if not str(each).startswith("unix"))
        assert await code_of(grpc.aio.insecure_channel(target, OPTIONS), bearer(made.token)) is STATUS.OK
