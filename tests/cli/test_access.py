"""`takhin tokens` and `takhin access`: offline, beside a running broker, and at a broker."""

from __future__ import annotations

import json

import grpc
import pytest

import forked
from blackbox.broker_process import Broker, command, environment
from blackbox.clients import eventually
from takhin.client import Rule
from takhin.client.sync import Admin
from takhin.errors import PermissionDeniedError, TakhinError, UnauthenticatedError

MISSING = ["--server", "127.0.0.1:1"]


def takhin(*args: object, code: int = 0, **settings: object) -> str:
    """What the command prints."""
    done = forked.run(command(*args), env=environment(**settings), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def allowed(server: str, token: str) -> bool:
    try:
        with Admin(server, token=token) as admin:
            admin.list_topics()
    except (UnauthenticatedError, PermissionDeniedError):
        return False
    return True


def test_the_first_token(tmp_path):
    """A token and a rule made offline let their holder in; changes beside the broker are in force soon."""
    data = tmp_path / "data"
    at = ["--data-dir", data]
    token = takhin("tokens", "create", "boss", *at).split()[-1]
    assert token.startswith("tkn_")
    assert takhin("access", "allow", "boss", "admin", "--topic", "*", *at) == "allow boss admin topic *\n"
    with (
        Broker(data, access_enabled="true", log_access="true") as broker,
        Admin(broker.address, token=token) as admin,
    ):
        admin.create_topic("orders")
        other = takhin("tokens", "create", "other", *at, data_dir=tmp_path).split()[-1]
        takhin("access", "allow", "other", "read", "--topic", "ord*", *at)
        eventually(lambda: allowed(broker.address, other), seconds_max=2)
        # The same by calls, which need the right.
        third, info = admin.create_token("third", note="by a call")
        admin.change_access([Rule("third", "read", "group", "g", allow=True)])
        assert {of.principal for of in admin.list_tokens()} == {"boss", "other", "third"}
        assert "; give a token by --token-file" in takhin(
            "topics", "list", "--server", broker.address, code=1
        )
        with Admin(broker.address, token=third) as refused, pytest.raises(PermissionDeniedError):
            refused.list_access()
        listed = json.loads(takhin("access", "list", "third", "--json", *at))
        assert listed == [
            {"rule": "allow", "principal": "third", "action": "read", "resource": "group", "pattern": "g"}
        ]
        assert info.token_id in takhin("tokens", "revoke", "third", *at)
        eventually(lambda: not allowed(broker.address, third), seconds_max=2)
        assert admin.revoke_tokens("other")
        assert not allowed(broker.address, other)
        assert "third" in takhin("access", "forget", "third", "read", "--group", "g", *at)
        log = broker.log()
        assert not any(secret in log for secret in (token, other, third))
        lines = [json.loads(line) for line in log.splitlines()]
    calls = [line for line in lines if line["event"] == "access" and line["method"].endswith("CreateTopic")]
    assert [(of["principal"], of["status"], of["level"]) for of in calls] == [("boss", "OK", "info")]
    assert sorted(path.name for path in data.glob("access*")) == ["access.db"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["tokens", "list", "--data-dir", "{data}"], "there are no tokens and rules in"),
        (["tokens", "create", "*", "--data-dir", "{data}"], "a principal cannot be called *"),
        (
            ["tokens", "create", "x", "--expires", "soon", "--data-dir", "{data}"],
            "must be a time such as 90d",
        ),
        (["tokens", "list", "--data-dir", "{data}", *MISSING], "give --data-dir or --server, not both"),
        (["tokens", "list", *MISSING], "no broker answers"),
        (["tokens", "list", "--token-file", "none"], "cannot read the token's file"),
        (["access", "allow", "x", "read", "--data-dir", "{data}"], "give --topic or --group"),
        (["access", "allow", "x", "group", "--topic", "a", "--data-dir", "{data}"], "read, write or admin"),
    ],
)
def test_mistakes(tmp_path, args, sentence):
    """A mistake is one sentence, and makes no file."""
    data = tmp_path / "data"
    error = takhin(*(arg.format(data=data) for arg in args), code=1)
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (data / "access.db").exists() or "principal" in sentence


def test_a_damaged_file_refuses_the_start(tmp_path):
    """A broker whose tokens and rules are damaged does not start with access.enabled, and starts without."""
    data = tmp_path / "data"
    takhin("tokens", "create", "boss", "--data-dir", data)
    (data / "access.db").write_bytes(b"x" * 8_192)
    error = takhin("serve", "--data-dir", data, "--listen", "127.0.0.1:0", "--access-enabled", code=2)
    assert "access.db is damaged" in error
    with Broker(data) as broker, Admin(broker.address) as admin:
        admin.create_topic("orders")
        with pytest.raises(PermissionDeniedError, match=r"access\.enabled is false"):
            admin.create_token("x")


def test_an_old_folder_opens(tmp_path):
    """A folder without tokens and rules opens; until there is one, every call is refused."""
    data = tmp_path / "data"
    with Broker(data) as broker, Admin(broker.address) as admin:
        admin.create_topic("orders")
    assert not (data / "access.db").exists()
    with Broker(data, access_enabled="true") as broker, Admin(broker.address) as admin:
        with pytest.raises(TakhinError) as raised:
            admin.list_topics()
        assert "no_tokens" in broker.log()
    assert isinstance(raised.value, UnauthenticatedError)
    assert isinstance(raised.value.__cause__, grpc.aio.AioRpcError)
