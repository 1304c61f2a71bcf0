"""Which broker is meant, and how it is reached: flags, variables, and the contexts file."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from takhin.client import TlsFiles
from takhin.client.contexts import Context, Contexts, Endpoint, changing, contexts_path, endpoint
from takhin.errors import InvalidArgumentError
from takhin.kinds import Secret

TOKEN = "tk_open-sesame"

FILE = """
current = "prod"

[contexts.prod]
server = "prod.example:9092"
ca = "ca.pem"
token_file = "token"

[contexts.local]
server = "unix:/run/takhin"

[contexts.own]
server = "tls://own.example:1"
cert = "/own.pem"
key = "/own.key"
"""


@pytest.fixture
def environ(tmp_path):
    """An environment with a contexts file in it."""
    (tmp_path / "contexts.toml").write_text(FILE)
    (tmp_path / "token").write_text(TOKEN + "\n")
    return {"TAKHIN_CONTEXTS": str(tmp_path / "contexts.toml")}


def refusal(environ, context=None, **given):
    with pytest.raises(InvalidArgumentError) as caught:
        endpoint(context, given=Context(**given), environ=environ)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_where_the_file_is(tmp_path):
    """TAKHIN_CONTEXTS, else XDG_CONFIG_HOME, else ~/.config."""
    xdg = {"XDG_CONFIG_HOME": "/xdg"}
    assert contexts_path(xdg | {"TAKHIN_CONTEXTS": "/a/b"}) == Path("/a/b")
    assert contexts_path(xdg) == Path("/xdg/takhin/contexts.toml")
    assert contexts_path({}) == Path("~/.config/takhin/contexts.toml").expanduser()


def test_what_wins(tmp_path, environ):
    """A flag wins over a variable, that over the context; a server that is named has no context's secrets."""
    prod = Endpoint("prod.example:9092", TlsFiles(ca=tmp_path / "ca.pem"), TOKEN)
    assert endpoint(environ=environ) == prod
    assert endpoint("prod", environ=environ) == prod
    assert endpoint("local", environ=environ) == Endpoint("unix:/run/takhin")
    own = TlsFiles(certificate=Path("/own.pem"), key=Path("/own.key"))
    assert endpoint("own", environ=environ) == Endpoint("tls://own.example:1", own)
    assert endpoint(environ=environ | {"TAKHIN_CONTEXT": "local"}) == Endpoint("unix:/run/takhin")
    assert endpoint(environ=environ | {"TAKHIN_SERVER": "a:1"}) == Endpoint("a:1")
    assert endpoint("prod", environ=environ | {"TAKHIN_SERVER": "a:1"}) == prod
    assert endpoint("prod", environ=environ | {"TAKHIN_CONTEXT": "local"}) == prod
    given = Context(server="b:2")
    named = environ | {"TAKHIN_SERVER": "a:1", "TAKHIN_CONTEXT": "local"}
    assert endpoint(given=given, environ=named) == Endpoint("b:2")
    other = environ | {"TAKHIN_CA": "/other.pem", "TAKHIN_TOKEN": "other"}
    assert endpoint(environ=other) == Endpoint("prod.example:9092", TlsFiles(ca=Path("/other.pem")), "other")
    assert endpoint(given=Context(ca=Path("/c.pem")), environ=other).tls == TlsFiles(ca=Path("/c.pem"))


def test_without_anything():
    """Without a file and variables it is the default address, in plain text."""
    environ = {"TAKHIN_CONTEXTS": "/nowhere/at/all", "TAKHIN_SERVER": "", "TAKHIN_TOKEN": ""}
    assert endpoint(environ=environ) == Endpoint("127.0.0.1:9092")


def test_when_tls_is_used(environ):
    """It is used if it is asked for or implied, unless it is refused; a socket file implies none."""
    ca = Path("/ca.pem")
    for given, used in [
        (Context(server="h:1"), False),
        (Context(server="h:1", tls=True), True),
        (Context(server="h:1", ca=ca), True),
        (Context(server="h:1", ca=ca, tls=False), False),
        (Context(server="tls://h:1"), True),
        (Context(server="mtls://h:1"), True),
        (Context(server="unix:/s", ca=ca), False),
    ]:
        assert (endpoint(given=given, environ={}).tls is not None) == used
    assert "switched off" in refusal({}, server="tls://h:1", tls=False)


def test_what_does_not_go_together(tmp_path, environ):
    """What is ambiguous or cannot be used is refused, and the token is never repeated."""
    assert "not both" in refusal(environ, "prod", server="h:1")
    assert "are both set" in refusal(environ | {"TAKHIN_CONTEXT": "local", "TAKHIN_SERVER": "h:1"})
    assert "no context 'prud'" in refusal(environ, "prud")
    assert "nearest known one is 'prod'" in refusal(environ, "prud")
    assert "cert and key" in refusal({}, server="h:1", cert=Path("/c"))
    assert "not both" in refusal({"TAKHIN_TOKEN": TOKEN, "TAKHIN_TOKEN_FILE": "/t"}, server="h:1")
    assert "cannot read the token's file '/none'" in refusal({}, server="h:1", token_file=Path("/none"))
    (tmp_path / "two").write_text(f"{TOKEN}\n{TOKEN}\n")
    assert "must be one token" in refusal({}, server="h:1", token_file=tmp_path / "two")
    (tmp_path / "empty").write_text("\n")
    assert "must be one token" in refusal({}, server="h:1", token_file=tmp_path / "empty")
    assert "tls must be true or false" in refusal({"TAKHIN_TLS": "yes"}, server="h:1")
    assert "server must be HOST:PORT" in refusal({"TAKHIN_SERVER": "nonsense"})
    assert TOKEN not in repr(endpoint(environ=environ))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "unknown key 'x'"),
        ("[contexts.a]\nserver = 'h:1'\nport = 2", "unknown key 'port' of context 'a'"),
        ("[contexts.a]\nserver = 'h'", "server must be HOST:PORT"),
        ("[contexts.a]\nserver = 1", "server must be"),
        ("[contexts.a]\ntls = 'perhaps'", "tls must be true or false"),
        ("[contexts.'a b']\nserver = 'h:1'", "is no context"),
        ("contexts = 1", "contexts must be a table"),
        ("[contexts]\na = 1", "is no context"),
        ("current = 'b'\n[contexts.a]\nserver = 'h:1'", "current must be one of the contexts"),
        ("current = []", "current must be one of the contexts"),
        ("nonsense", "is not TOML"),
        ("\udcff", "is not TOML"),
    ],
)
def test_files_with_mistakes(tmp_path, text, words):
    """A mistake in the file is refused by name."""
    (tmp_path / "c").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidArgumentError) as caught:
        Contexts.read(tmp_path / "c")
    assert words in str(caught.value)
    assert str(tmp_path / "c") in str(caught.value)


def test_a_token_in_the_file_is_for_its_owner(tmp_path):
    """A file with a token that others can read is refused; one without a token is not."""
    path = tmp_path / "c"
    with changing(path) as contexts:
        contexts.contexts["a"] = Context(server="h:1", token=Secret(TOKEN))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Contexts.read(path).contexts["a"].token == Secret(TOKEN)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(InvalidArgumentError, match="chmod 600"):
            Contexts.read(path)
    path.chmod(0o600)
    with changing(path) as contexts:
        contexts.contexts["a"] = Context(server="h:1")
    path.chmod(0o644)
    assert Contexts.read(path).contexts["a"].server == "h:1"


def test_what_is_written_is_read_back(tmp_path):
    """Every value survives, whatever characters are in it; a link to the file stays one."""
    odd = Context(
        server="unix:/run/a b\"\\'ü",
        tls=False,
        ca=Path("/a#b/ü\\"),
        cert=Path("/c"),
        key=Path("/k"),
        token_file=Path("/t"),
    )
    (tmp_path / "link").symlink_to("target")
    with changing(tmp_path / "link") as contexts:
        contexts.contexts["a.b-c_D"] = odd
        contexts.current = "a.b-c_D"
    assert (tmp_path / "link").is_symlink()
    found = Contexts.read(tmp_path / "link")
    assert (found.contexts, found.current) == ({"a.b-c_D": odd}, "a.b-c_D")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_many_who_change_it_at_one_time(tmp_path):
    """Nobody's change is lost, and a change that fails changes nothing."""

    def add(number):
        with changing(tmp_path / "new" / "c") as contexts:
            contexts.contexts[f"c{number}"] = Context(server="h:1")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = (tmp_path / "new" / "c").read_bytes()
    with pytest.raises(KeyError), changing(tmp_path / "new" / "c") as contexts:
        del contexts.contexts["c1"], contexts.contexts["none"]
    assert (tmp_path / "new" / "c").read_bytes() == before
    assert len(Contexts.read(tmp_path / "new" / "c").contexts) == 20


def test_nothing_is_left_of_a_file_that_could_not_be_put_into_place(tmp_path):
    """Where the file cannot be written, no other file stays in its folder: it may have a token."""
    path = tmp_path / "contexts.toml"
    path.mkdir()
    with pytest.raises(InvalidArgumentError, match="cannot write"):
        Contexts(path).write()
    assert list(tmp_path.iterdir()) == [path]
