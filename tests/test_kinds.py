"""Kinds of values: what each accepts, refuses and prints, in a small settings tree of the test's own."""

from __future__ import annotations

import copy
import dataclasses
import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin.cli.serve import add_flags, given_flags
from takhin.config import Loaded, Tree
from takhin.errors import StartupError
from takhin.kinds import Bool, Choice, FilePath, Kind, ListOf, Secret, SecretText, Text, Whole
from takhin.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A branch with some of each kind."""

    strict: bool = setting(default=False, doc="whether it is strict")
    wait_ms_max: int = setting(-1, "how long it waits", least=1, no_limit=True)
    retention: int = setting(-1, "how long", least=1, no_limit=True)
    names: tuple[str, ...] = setting((), "who")
    policies: tuple[str, ...] = setting(("delete",), "what", choices=("delete", "compact"))
    token: Secret = setting(Secret(), "what opens it")  # noqa: RUF009


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The root of the tree."""

    folder: Path = setting(Path("data"), "where")  # noqa: RUF009
    branch: Branch = field(default_factory=Branch)


TREE = Tree(Root)
SECRET = "open sesame"
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


def loaded(folder: Path, file: str = "", flags=None, environ=None) -> Loaded[Root]:
    path = folder / "takhin.toml"
    path.write_text(file)
    return TREE.load(flags or {}, environ or {}, path)


def refusal(folder: Path, file: str = "", **sources) -> str:
    """The sentence with which these sources are refused."""
    with pytest.raises(StartupError) as caught:
        loaded(folder, file, **sources)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None or SECRET not in repr(caught.value.__cause__)
    return str(caught.value)


GOOD = [
    ("branch.strict", "true", "true", True),
    ("branch.strict", "True", "false", True),
    ("branch.strict", "FALSE", "true", False),
    ("branch.retention", "-1", "-1", -1),
    ("branch.retention", "7", "7", 7),
    ("branch.names", "a", "['a']", ("a",)),
    ("branch.names", "a, b,ü", "['a', 'b', 'ü']", ("a", "b", "ü")),
    ("branch.names", "", "[]", ()),
    ("branch.policies", "compact,delete", "['compact', 'delete']", ("compact", "delete")),
    ("folder", "/x/y", "'/x/y'", Path("/x/y")),
    ("folder", "./x", "'x'", Path("x")),
    ("branch.token", SECRET, f"'{SECRET}'", Secret(SECRET)),
]


@pytest.mark.parametrize(("key", "text", "toml", "value"), GOOD)
def test_every_source_takes_every_kind(tmp_path, key, text, toml, value):
    """Every source accepts every kind: a flag, a variable, and the file with TOML or text."""
    branch, _, name = key.rpartition(".")
    section = f"[{branch}]\n" if branch else ""
    option = TREE.options[key]
    for source in (
        {"flags": {key: text}},
        {"environ": {option.variable: text}},
        {"file": f"{section}{name} = '{text}'"},
    ):
        settings = loaded(tmp_path, **source).settings
        assert getattr(settings.branch if branch else settings, name) == value
    given = tomllib.loads(f"x = {toml}")["x"]
    if not isinstance(value, bool):
        assert option.parse(given, "file") == value
    assert type(option.parse(given, "file")) is type(value)


BAD = [
    ("branch.strict", "yes", "branch.strict must be true or false, not 'yes'"),
    ("branch.strict", "", "not ''"),
    ("branch.strict", 1, "branch.strict must be true or false, not '1'"),
    ("branch.retention", "0", "must be a whole number from 1 to 2147483647, or -1 for no limit, not '0'"),
    ("branch.retention", "-2", "not '-2'"),
    ("branch.names", "a,,b", "branch.names must be a list with commas, each item text without control"),
    ("branch.names", "a\tb", "not 'a\\tb'"),
    ("branch.names", 3, "must be a list with commas"),
    ("branch.names", ["a", 3], "must be a list with commas"),
    ("branch.policies", "delete,shred", "each item delete or compact, not 'delete,shred'"),
    ("branch.policies", "delete,delete", "must be a list without repeats, each item delete or compact"),
    ("branch.names", ["a", "b", "a"], "must be a list without repeats"),
    ("branch.wait_ms_max", "5s", "not '5s'; in ms: 5000 ("),
    ("folder", "", "folder must be text without control characters, and not empty, not ''"),
    ("folder", "a\nb", "not 'a\\nb'"),
    ("folder", 3, "not '3'"),
]


@pytest.mark.parametrize(("key", "raw", "sentence"), BAD)
def test_what_a_kind_refuses(key, raw, sentence):
    """The error names the setting, the rule, the value and where it came from."""
    with pytest.raises(StartupError) as caught:
        TREE.options[key].parse(raw, "flag")
    assert sentence in str(caught.value)
    assert str(caught.value).endswith("(flag)")


def of_kind(kind: Kind[object]) -> st.SearchStrategy[object]:
    """All values that a kind allows."""
    if isinstance(kind, ListOf):
        return st.lists(of_kind(kind.item), unique=True).map(tuple)
    if isinstance(kind, Choice):
        return st.sampled_from(kind.choices)
    return {
        Whole: st.integers(1, (1 << 31) - 1) | st.just(-1),
        Bool: st.booleans(),
        FilePath: TEXTS.map(Path),
        Text: TEXTS,
    }[type(kind)]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            key: of_kind(option.kind)
            for key, option in TREE.options.items()
            if not isinstance(option.kind, SecretText) and option.fills == key
        },
    )
)
def test_what_is_printed_loads_back(tmp_path_factory, values):
    """A printed config gives the same settings, and so does the text of each value by itself."""
    made = TREE.load(values, {}, None)
    folder = tmp_path_factory.mktemp("printed")
    assert loaded(folder, made.as_toml()).settings == made.settings
    for key, value in values.items():
        kind = TREE.options[key].kind
        if not isinstance(kind, ListOf) or not any("," in item or item != item.strip() for item in value):
            assert kind.parse(kind.text(value)) == value


def test_a_secret_is_not_seen():
    """repr, str, format and asdict hide a secret; copies are equal, and an empty one is false."""
    settings = Root(branch=Branch(token=Secret(SECRET)))
    token = settings.branch.token
    shown = [repr(settings), str(token), f"{token}", f"{token!r}", str(dataclasses.asdict(settings))]
    assert not any(SECRET in text for text in shown)
    assert "********" in repr(settings)
    assert token.reveal() == SECRET
    assert copy.deepcopy(token) == token != Secret("x")
    assert (bool(token), bool(Secret()), repr(Secret())) == (True, False, "Secret()")
    assert len({token, Secret(SECRET)}) == 1


def test_a_secret_given_directly_is_printed_as_a_comment(tmp_path):
    """A printed config with a secret loads, and leaves the secret out instead of setting it to the mask."""
    made = loaded(tmp_path, environ={"TAKHIN_BRANCH_TOKEN": SECRET})
    printed = made.as_toml()
    assert made.settings.branch.token.reveal() == SECRET
    assert SECRET not in printed
    assert '# token = "********"  # from: variable TAKHIN_BRANCH_TOKEN' in printed.splitlines()
    assert not loaded(tmp_path, printed).settings.branch.token


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("source", ["flags", "environ", "file"])
def test_a_secret_in_a_file(tmp_path, source, end):
    """Every source may name a secret's file, and a printed config names it again."""
    path = tmp_path / "token"
    path.write_text(SECRET + end, newline="")
    option = TREE.options["branch.token_file"]
    assert (option.flag, option.variable) == ("--branch-token-file", "TAKHIN_BRANCH_TOKEN_FILE")
    sources = {
        "flags": {"flags": {option.key: str(path)}},
        "environ": {"environ": {option.variable: str(path)}},
        "file": {"file": f"[branch]\ntoken_file = '{path}'"},
    }
    made = loaded(tmp_path, **sources[source])
    assert made.settings.branch.token.reveal() == SECRET
    assert f'token_file = "{path}"  # from: ' in made.as_toml()
    assert loaded(tmp_path, made.as_toml()).settings == made.settings


def test_a_later_source_wins_over_a_secret_in_a_file(tmp_path):
    """A flag overrides a file, in whichever form each of them gives the secret."""
    (tmp_path / "token").write_text("other")
    other = {"file": f"[branch]\ntoken_file = '{tmp_path / 'token'}'"}
    made = loaded(tmp_path, **other, environ={"TAKHIN_BRANCH_TOKEN": SECRET})
    assert made.settings.branch.token == Secret(SECRET)
    sentence = refusal(tmp_path, f"[branch]\ntoken = '{SECRET}'\ntoken_file = '{tmp_path / 'token'}'")
    assert "give branch.token or branch.token_file, not both" in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "not empty"),
        (f"{SECRET}\n\n".encode(), "control characters"),
        (SECRET.encode() + b"\xff", "not UTF-8"),
    ],
)
def test_a_bad_file_of_a_secret(tmp_path, content, words):
    """The error names the file and its source, and shows nothing of the content."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    sentence = refusal(tmp_path, environ={"TAKHIN_BRANCH_TOKEN_FILE": str(path)})
    for word in (words, str(path), "branch.token_file", "variable TAKHIN_BRANCH_TOKEN_FILE"):
        assert word in sentence


@pytest.mark.parametrize("given", [SECRET, f"{SECRET}\n", f"./{SECRET}"])
def test_a_secret_given_as_its_own_file_is_not_repeated(tmp_path, given):
    """The error names the key whose value is wrong; a name without a folder may be the secret."""
    sentence = refusal(tmp_path, environ={"TAKHIN_BRANCH_TOKEN_FILE": given})
    assert "branch.token_file" in sentence
    assert "variable TAKHIN_BRANCH_TOKEN_FILE" in sentence


@pytest.mark.parametrize(
    "toml", [f'token = "{SECRET}\\u0007"', f'token = ["{SECRET}"]', f'token.x = "{SECRET}"']
)
def test_a_bad_secret_is_not_repeated(tmp_path, toml):
    """The error says what a secret must be, and that it does not show the value."""
    sentence = refusal(tmp_path, f"[branch]\n{toml}")
    assert "branch.token must be text without control characters" in sentence
    assert "a secret" in sentence


@pytest.mark.parametrize(
    ("arguments", "branch"),
    [
        ("--branch-strict", Branch(strict=True)),
        ("--branch-strict --branch-retention 7", Branch(strict=True, retention=7)),
        ("--branch-strict=false", Branch(strict=False)),
        ("--branch-names a --branch-names b,c", Branch(names=("a", "b", "c"))),
        ("--branch-names=", Branch(names=())),
        ("--branch-token x", Branch(token=Secret("x"))),
        ("", Branch()),
    ],
)
def test_flags_of_every_kind(arguments, branch):
    """A bool flag may stand alone or have a value, a list may be repeated, and a missing flag is absent."""
    given = []

    def command(**parameters):
        given.append(given_flags(parameters, TREE.options))

    click.command(add_flags(command, TREE.options))(shlex.split(arguments), standalone_mode=False)
    assert TREE.load(given[0], {}, None).settings == Root(branch=branch)
