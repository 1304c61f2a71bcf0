"""Where settings come from: every source, every mistake, and a printed config that loads again."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from itertools import cycle, islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin.config import OPTIONS, Option, load
from takhin.errors import StartupError
from takhin.kinds import Bool, Choice, FilePath, ListOf, NoneOr, Share, Text, Whole
from takhin.settings import Settings, split_address

EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)


def value_of(settings: Settings, key: str) -> object:
    """The value at `key` in the tree."""
    part: object = settings
    for name in key.split("."):
        part = getattr(part, name)
    return part


def some_values(option: Option, number: int) -> list[object]:
    """As many allowed values of an option, all different if it has enough."""
    choices: list[object] = [f"host-{n}:{n}" for n in range(number)]
    if isinstance(option.kind, Choice):
        choices = list(option.kind.choices)
    elif isinstance(option.kind, Whole):
        choices = [option.kind.least + n for n in range(number)]
    elif isinstance(option.kind, Bool):
        choices = [True, False]
    elif isinstance(option.kind, Share):
        choices = [n / 4 for n in range(number)]
    elif isinstance(option.kind, FilePath) or (
        isinstance(option.kind, NoneOr) and isinstance(option.kind.inner, FilePath)
    ):
        choices = [Path(f"folder-{n}") for n in range(number)]
    elif option.key == "access.certificate_principals":
        choices = [tuple(f"name-{m}=me" for m in range(n)) for n in range(number)]
    elif isinstance(option.kind, ListOf):
        item = option.kind.item
        if option.key == "quotas.overrides":
            choices = [f"someone:calls={n + 1}" for n in range(number)]
        items = item.choices if isinstance(item, Choice) else tuple(choices)
        choices = [items[:n] for n in range(option.kind.least, number + option.kind.least)]
    return list(islice(cycle(choices), number))


def toml_file(folder: Path, text: str) -> Path:
    file = folder / "takhin.toml"
    file.write_text(text)
    return file


def printed_values(text: str) -> dict[str, object]:
    """What a printed config says of each setting, by key, as TOML has it."""
    tables = tomllib.loads(text)
    return {
        key: (tables[branch] if branch else tables)[name]
        for key in OPTIONS
        for branch, _, name in [key.rpartition(".")]
    }


def assert_printed(text: str, settings: Settings) -> None:
    """Every setting is printed as what it is: a number as a number. A path is text, as TOML has none."""
    for key, printed in printed_values(text).items():
        value = value_of(settings, key)
        if isinstance(value, Path | None):
            assert isinstance(printed, str)
            assert (OPTIONS[key].parse(printed, "") if printed else None) == value
        else:
            of_tree = tuple(printed) if isinstance(printed, list) else printed
            assert (type(of_tree), of_tree) == (type(value), value)


def refusal(folder: Path, *, flags=None, environ=None, file: str | None = None) -> str:
    """The sentence with which these sources are refused."""
    with pytest.raises(StartupError) as caught:
        load(flags or {}, environ or {}, None if file is None else toml_file(folder, file))
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    return sentence


def test_without_sources_all_is_default():
    """Without sources, every setting has its default and says so."""
    loaded = load({}, {}, None)
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}


@EVERY_OPTION
def test_precedence(tmp_path, option):
    """Every setting has the precedence flag > variable > file > default, and the origin names the winner."""
    in_file, in_variable, in_flag = some_values(option, 3)
    branch, _, name = option.key.rpartition(".")
    shown = json.dumps(in_file, default=str)
    file = toml_file(tmp_path, f"{f'[{branch}]' if branch else ''}\n{name} = {shown}\n")
    environ = {option.variable: option.kind.text(in_variable)}
    flags = {option.key: option.kind.text(in_flag)}
    for sources, value, origin in [
        ((flags, environ, file), in_flag, f"flag {option.flag}"),
        (({}, environ, file), in_variable, f"variable {option.variable}"),
        (({}, {}, file), in_file, f"file {str(file)!r}"),
        (({}, {}, None), option.default, "default"),
    ]:
        loaded = load(*sources)
        assert (value_of(loaded.settings, option.key), loaded.origins[option.key]) == (value, origin)


def test_names_are_derived_from_the_tree():
    """Every leaf of the tree is one option, and its three names are spelled the same way."""
    leaves = sum(
        not dataclasses.is_dataclass(getattr(Settings(), f.name)) for f in dataclasses.fields(Settings)
    )
    for field in dataclasses.fields(Settings):
        branch = getattr(Settings(), field.name)
        leaves += len(dataclasses.fields(branch)) if dataclasses.is_dataclass(branch) else 0
    assert len(OPTIONS) == leaves
    option = OPTIONS["storage.commit_threads"]
    assert option.variable == "TAKHIN_STORAGE_COMMIT_THREADS"
    assert option.flag == "--storage-commit-threads"


@EVERY_OPTION
def test_the_default_is_allowed(option):
    """Every default is allowed by its own setting; otherwise it could be printed but not loaded."""
    assert option.parse(option.default, "default") == option.default
    assert option.doc


def test_the_file_may_be_named_by_a_variable(tmp_path):
    """TAKHIN_CONFIG names the file, unless --config names another."""
    (tmp_path / "a").write_text('listen = "a:1"')
    (tmp_path / "b").write_text('listen = "b:1"')
    environ = {"TAKHIN_CONFIG": str(tmp_path / "a")}
    assert load({}, environ, None).settings.listen == ("a:1",)
    assert load({}, environ, tmp_path / "b").settings.listen == ("b:1",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("datadir = 'x'", ["'datadir'", "data_dir"]),
        ("[storage]\ncommit_thread = 1", ["'storage.commit_thread'", "storage.commit_threads"]),
        ("[storag]\ncommit_threads = 1", ["'storag'", "storage"]),
        ("zzz = 1", ["'zzz'", "the nearest known one is "]),
        ("storage = 3", ["storage must be a table", "[storage]", "3"]),
        ("[listen]\nport = 1", ["listen must be", "{'port': 1}"]),
        ("listen = 9092", ["listen must be", "9092"]),
        ("data_dir = ''", ["data_dir must be", "''"]),
        ("data_dir = 'a\tb'", ["data_dir must be", "\\t"]),
        ("[storage]\ncommit_threads = '2'x", ["not TOML", "line 2"]),
        ("[storage]\ncommit_threads = 2.0", ["storage.commit_threads must be a whole number", "2.0"]),
        ("[storage]\ncommit_threads = true", ["storage.commit_threads must be a whole number", "True"]),
        ("[storage]\ncommit_threads = 0", ["storage.commit_threads must be a whole number from 1 ", "'0'"]),
        ("[rpc]\nkeepalive_ms = 2147483648", ["rpc.keepalive_ms", "to 2147483647", "2147483648"]),
        ("[log]\nlevel = 'loud'", ["log.level must be one of debug, info, warning, error", "'loud'"]),
        ("x = " + "[" * 100_000, ["not TOML"]),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, words):
    """The error names the nearest known key, or key, value, rule and file."""
    sentence = refusal(tmp_path, file=text)
    for word in [*words, str(tmp_path / "takhin.toml")]:
        assert word in sentence


def test_a_file_that_cannot_be_read(tmp_path):
    """A file that is absent, a folder or not text is refused in a sentence that names it."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in [("absent", "No such file"), (".", "directory"), ("binary", "not TOML")]:
        with pytest.raises(StartupError, match=reason) as caught:
            load({}, {}, tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TAKHIN_STORAGE_COMMIT_THREAD", "TAKHIN_STORAGE_COMMIT_THREADS"),
        ("TAKHIN_STORAGE_X", "TAKHIN_STORAGE_"),  # below a section, no name belongs to another program
        ("TAKHIN_LOG", "TAKHIN_LOG_LEVEL"),
        ("TAKHIN_STORGE_COMMIT_THREADS", "TAKHIN_STORAGE_COMMIT_THREADS"),
        ("TAKHIN_DATADIR", "TAKHIN_DATA_DIR"),
        ("TAKHIN_DATA", "TAKHIN_DATA_DIR"),
        ("TAKHIN_LISTEN_PORT", "TAKHIN_LISTEN"),
        ("TAKHIN_CONFIG_FILE", "TAKHIN_CONFIG"),
    ],
)
def test_mistaken_variables(tmp_path, name, nearest):
    """An unknown variable that was meant for the broker is refused, with the nearest known one."""
    sentence = refusal(tmp_path, environ={name: "9092"})
    assert repr(name) in sentence
    assert nearest in sentence


def test_variables_of_others_are_left_alone():
    """Variables of clients, of other programs and of Kubernetes' service links are ignored."""
    environ = {
        "PATH": "/bin",
        "TAKHIN_SERVER": "broker:9092",
        "TAKHIN_TOKEN": "secret",
        "TAKHIN_SOAK": "1",
        "TAKHIN_SERVICE_HOST": "10.0.0.1",
        "TAKHIN_SERVICE_PORT": "9092",
        "TAKHIN_SERVICE_PORT_GRPC": "9092",
        "TAKHIN_PORT": "tcp://10.0.0.1:9092",
        "TAKHIN_PORT_9092_TCP": "tcp://10.0.0.1:9092",
        "TAKHIN_PORT_9092_TCP_ADDR": "10.0.0.1",
        "TAKHIN_PORT_9092_TCP_PROTO": "tcp",
        "TAKHIN_RPC_SERVICE_HOST": "10.0.0.1",
        "TAKHIN_LOG_PORT": "tcp://10.0.0.1:80",
    }
    assert load({}, environ, None).settings == Settings()


@pytest.mark.parametrize("raw", ["", "two", "1e3", "0", "-1", "1 ", "٣", "9" * 30])
def test_bad_numbers_in_variables_and_flags(tmp_path, raw):
    """A text that is no allowed number is refused; key, value and the variable or flag are named."""
    key = "storage.commit_threads"
    in_variable = refusal(tmp_path, environ={"TAKHIN_STORAGE_COMMIT_THREADS": raw})
    in_flag = refusal(tmp_path, flags={key: raw})
    assert key in in_variable
    assert ascii(raw) in in_variable
    assert "variable TAKHIN_STORAGE_COMMIT_THREADS" in in_variable
    assert "flag --storage-commit-threads" in in_flag


def test_a_mistake_in_a_source_that_loses_is_refused_too(tmp_path):
    """A mistake is refused even if another source wins: it would surface when that one is removed."""
    sentence = refusal(tmp_path, flags={"log.level": "info"}, environ={"TAKHIN_LOG_LEVEL": "loud"})
    assert "variable TAKHIN_LOG_LEVEL" in sentence


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:9092", ("127.0.0.1", 9092)),
        ("localhost:0", ("localhost", 0)),
        ("my_broker.example-1.org:65535", ("my_broker.example-1.org", 65535)),
        ("[::1]:9092", ("::1", 9092)),
        ("[::]:1", ("::", 1)),
    ],
)
def test_addresses(address, parts):
    """An address is HOST:PORT, with an IPv6 host in brackets."""
    assert split_address(address) == parts
    assert load({"listen": address}, {}, None).settings.listen == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "9092",
        ":9092",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "::1:9092",
        "[::1]",
        "a b:1",
        "h:1\n",
        "unix:1",
        "unix:",
        "unix:folder/",
        f"unix:/{'x' * 107}",
        "tls://",
        "tls:h:1",
        "tls://h",
        "tls://h:x",
        "tls://unix:/x",
        "http://h:1",
        "h:1,",
        "h:1,h:1",
    ],
)
def test_bad_addresses(tmp_path, address):
    """Anything but addresses is refused as a value of listen, and so is a repeated one."""
    sentence = refusal(tmp_path, environ={"TAKHIN_LISTEN": address})
    assert sentence.startswith("listen must be ")


def values(option: Option) -> st.SearchStrategy[object]:
    """All values that an option allows."""
    kind = option.kind.inner if isinstance(option.kind, NoneOr) else option.kind
    if isinstance(kind, Whole):
        return st.integers(kind.least, kind.most)
    if isinstance(kind, Text):
        return st.builds("{}:{}".format, st.sampled_from(["h", "[::1]", "10.1.2.3"]), st.integers(0, 65535))
    if isinstance(kind, Choice | Bool | ListOf):
        return st.sampled_from([kind.text(value) for value in some_values(option, 3)])
    if isinstance(kind, Share):
        return st.integers(0, 10**6).map(lambda millionths: kind.text(millionths / 10**6))
    return st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@given(flags=st.fixed_dictionaries({}, optional={key: values(option) for key, option in OPTIONS.items()}))
def test_a_printed_config_loads_back(tmp_path_factory, flags):
    """`--print-config` prints a config file, and loading it gives the same settings."""
    printed = load(flags, {}, None)
    assert_printed(printed.as_toml(), printed.settings)
    file = toml_file(tmp_path_factory.mktemp("printed"), printed.as_toml())
    assert load({}, {}, file).settings == printed.settings


def test_a_printed_config_shows_every_value_with_its_doc_and_origin(tmp_path):
    """Each key is printed once, below its doc, and its line says where the value came from."""
    file = toml_file(tmp_path, "[log]\nlevel = 'debug'\n")
    loaded = load({"storage.commit_threads": "7"}, {"TAKHIN_LISTEN": "[::1]:1"}, file)
    text = loaded.as_toml()
    lines = text.splitlines()
    assert_printed(text, loaded.settings)
    for option in OPTIONS.values():
        assert any(option.doc in line for line in lines)
    assert "commit_threads = 7  # from: flag --storage-commit-threads" in lines
    assert 'listen = ["[::1]:1"]  # from: variable TAKHIN_LISTEN' in lines
    assert f'level = "debug"  # from: file {str(file)!r}' in lines
    assert 'format = "auto"  # from: default' in lines
