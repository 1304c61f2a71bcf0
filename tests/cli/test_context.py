"""`takhin context`, and how every command reaches a broker with TLS, certificates and tokens."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

import forked
from blackbox.broker_process import command, environment
from certificates import Authority, put
from takhin.cli.main import cli
from takhin.testing import MemoryBroker

SECRET = "tk_open-sesame"


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    """A broker with mutual TLS, and the folder of certificates for it: ca.pem, ann.pem, ann.key."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    authority.issue().save(folder)
    authority.issue("ann").save(folder, "ann")
    put(folder / "ca.pem", authority.pem)
    settings = {
        "listen": "mtls://127.0.0.1:0",
        "tls.certificate_file": str(folder / "broker.pem"),
        "tls.key_file": str(folder / "broker.key"),
        "tls.client_ca_file": str(folder / "ca.pem"),
    }
    with MemoryBroker(settings) as broker:
        yield broker.address, folder


@pytest.fixture
def run(tmp_path):
    """Run `takhin ARGS` with a contexts file of the test's own."""

    def run(*args, code=0, stdin="", **variables):
        done = forked.run(
            command(*args),
            env=environment(contexts=tmp_path / "takhin" / "contexts.toml", **variables),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """The same for commands that call no broker, in this process."""
    monkeypatch.chdir(tmp_path)

    def invoke(*args, code=0, stdin=None):
        environ = {"TAKHIN_CONTEXTS": str(tmp_path / "takhin" / "contexts.toml")}
        done = CliRunner().invoke(cli, [*map(str, args)], input=stdin, env=environ)
        assert done.exit_code == code, done.output
        assert SECRET not in done.output
        return done.output

    return invoke


def test_a_broker_by_its_name(run, reached):
    """Once named, a broker is reached by all commands; flags and variables reach it as well."""
    address, folder = reached
    ways = ["--ca", folder / "ca.pem", "--cert", folder / "ann.pem"]
    added = run("context", "add", "prod", "--server", address, *ways, "--key", folder / "ann.key")
    assert added == "added context prod\n"
    assert run("--context", "prod", "topics", "create", "t") == "created topic t with 1 partition\n"
    run("produce", "t", "--context", "prod", stdin="milk\n")
    assert run("context", "use", "prod") == "prod is the current context\n"
    assert run("consume", "t") == "milk\n"
    flags = ["--server", address, *ways, "--cert-key", folder / "ann.key"]
    assert run("topics", "list", *flags).split()[-3:][0]
    variables = {"ca": folder / "ca.pem", "cert": folder / "ann.pem", "key": folder / "ann.key"}
    assert f"healthy: Takhin 0.1.0 at {address}" in run("health", server=address, **variables)


def test_each_failed_handshake_has_its_sentence(run, reached):
    """The one line says which side refused what, and does not advise to start a broker."""
    address, folder = reached
    line = run("topics", "list", "--server", address, "--ca", folder / "ca.pem", code=1)
    assert line == (
        f"takhin: no connection to {address}: the broker asks for a certificate of the client, and this "
        "client has none (give --cert and --cert-key)\n"
    )
    assert "takes TLS alone" in run("health", "--server", address, code=3)


def test_the_commands(invoke, tmp_path):
    """add, list, use, show and remove, and what they refuse; a token is masked."""
    invoke("context", "add", "a", "--server", "tls://a:1", "--token-file", "-", "--use", stdin=SECRET + "\n")
    assert SECRET in (tmp_path / "takhin" / "contexts.toml").read_text()
    invoke("context", "add", "b", "--server", "b:2", "--ca", "ca.pem", "--token-file", "token")
    assert json.loads(invoke("context", "show", "--json")) == {
        "name": "a",
        "current": True,
        "server": "tls://a:1",
        "token": "********",
    }
    assert f"ca: {tmp_path}/ca.pem\ntoken_file: {tmp_path}/token\n" in invoke("context", "show", "b")
    added = invoke("context", "add", "d", "--server", "unix:t.sock", "--token-file", "none")
    assert added == f"takhin: there is no file {tmp_path}/none yet (token_file)\nadded context d\n"
    assert f"server: unix:{tmp_path}/t.sock\n" in invoke("context", "show", "d")
    invoke("context", "remove", "d")
    assert "there is a context 'b'" in invoke("context", "add", "b", "--server", "c:3", code=1)
    invoke("context", "add", "b", "--server", "c:3", "--replace")
    assert [of["server"] for of in json.loads(invoke("context", "list", "--json"))] == ["tls://a:1", "c:3"]
    assert invoke("context", "remove", "a") == "removed context a\n"
    assert "there is no current context" in invoke("context", "show", code=1)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["topics", "list", "--token", SECRET], "can be read by everybody on this machine"),
        (["context", "add", "a", "--server", "a:1", "--token", SECRET], "can be read by everybody"),
        (["context", "add", "a b", "--server", "a:1"], "a context's name has 1 to 64 letters"),
        (["context", "add", "a", "--server", "a"], "server must be HOST:PORT"),
        (["context", "add", "a", "--server", "a:1", "--cert", "c"], "give cert and key"),
        (["context", "use", "a"], "there is no context 'a'"),
        (["topics", "list", "--context", "a"], "there is no context 'a'"),
        (["topics", "list", "--context", "a", "--server", "a:1"], "not both"),
        (["topics", "list", "--server", "127.0.0.1:1", "--ca", "none"], "cannot read 'none'"),
    ],
)
def test_what_is_refused(invoke, args, words):
    """Each mistake has one line, and none repeats a token."""
    (line,) = invoke(*args, code=1).splitlines()
    assert words in line


def _leaves(group, context):
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from _leaves(found, context)
        else:
            yield found


def test_every_command_that_takes_a_server_takes_the_rest():
    """No command that talks to a broker lacks one of the options."""
    needed = {"--context", "--tls", "--ca", "--cert", "--cert-key", "--token-file"}
    found = 0
    for leaf in _leaves(cli, click.Context(cli)):
        options = {option for parameter in leaf.params for option in parameter.opts}
        if "--server" in options and leaf.name != "add":
            found += 1
            assert needed <= options, leaf.name
    assert found > 10
