"""`takhin serve`: a flag for every setting, --print-config, and mistakes as one line and exit code 2."""

from __future__ import annotations

import subprocess

import pytest

import forked
from blackbox.broker_process import Broker, command, environment
from takhin.config import OPTIONS, load
from takhin.settings import Settings


def serve(*args, **settings) -> subprocess.CompletedProcess[str]:
    return forked.run(
        command("serve", *args),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_shows_every_setting():
    """--help shows each setting's flag, doc and default."""
    text = " ".join(serve("--help").stdout.split())
    for option in OPTIONS.values():
        doc = " ".join(option.help.split())
        assert f"{option.flag} " in text
        default = f" [default: {option.shown_default}]" if option.shown_default else ""
        assert f"{doc}{default}" in text


def test_print_config_starts_nothing(tmp_path):
    """--print-config shows all three sources, creates no data folder, and prints a valid --config file."""
    (tmp_path / "in.toml").write_text("[log]\nlevel = 'debug'\n")
    args = ("--config", tmp_path / "in.toml", "--data-dir", tmp_path / "data", "--print-config")
    done = serve(*args, rpc_calls_max=7)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "data").exists()
    assert "calls_max = 7  # from: variable TAKHIN_RPC_CALLS_MAX\n" in done.stdout
    assert f"level = \"debug\"  # from: file '{tmp_path / 'in.toml'}'\n" in done.stdout
    assert f'data_dir = "{tmp_path / "data"}"  # from: flag --data-dir\n' in done.stdout
    (tmp_path / "out.toml").write_text(done.stdout)
    printed = load({}, {}, tmp_path / "out.toml").settings
    assert printed.data_dir == tmp_path / "data"
    assert (printed.rpc.calls_max, printed.log.level) == (7, "debug")
    (tmp_path / "again.toml").write_text(serve("--print-config", config=tmp_path / "out.toml").stdout)
    assert load({}, {}, tmp_path / "again.toml").settings == printed


def test_print_config_without_sources_is_the_default():
    """Without sources, every setting has its default, whatever this machine's environment is."""
    done = serve("--print-config")
    assert done.stdout.count("# from: default\n") == len(OPTIONS)
    assert f'listen = ["{Settings().listen[0]}"]' in done.stdout


@pytest.mark.parametrize(
    ("args", "settings", "sentence"),
    [
        (["--storage-commit-threads", "0"], {}, "storage.commit_threads must be a whole number"),
        (
            ["--listen", "9092"],
            {},
            "in brackets, or tls://HOST:PORT, mtls://HOST:PORT or unix:PATH, not '9092'",
        ),
        (["--log-level", "loud"], {}, "log.level must be one of debug, info, warning, error, not 'loud'"),
        (
            ["--config", "absent.toml"],
            {},
            "cannot read the config file 'absent.toml': No such file or directory",
        ),
        (["--data-dir", "a\nb"], {}, "data_dir must be text without control characters"),
        (["--data-dir", "\udcff"], {}, "is not UTF-8"),
        (["--no-such-flag"], {}, "--no-such-flag"),
        (["extra"], {}, "unexpected extra argument"),
        ([], {"storage_commit_thread": 1}, "the nearest known one is TAKHIN_STORAGE_COMMIT_THREADS"),
        ([], {"config": "absent.toml"}, "cannot read the config file 'absent.toml'"),
        ([], {"data_dir": ""}, "data_dir must be text"),
    ],
)
def test_mistakes(tmp_path, args, settings, sentence):
    """A wrong setting is one line on stderr, with exit code 2, before anything is started."""
    done = serve("--data-dir", tmp_path / "data", *args, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("takhin: ")
    assert sentence in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("engine", ["sqlite", "memory"])
def test_a_broker_that_loses_its_records_says_so(tmp_path, engine):
    """The engine in memory is warned of at the start; the one over files is not."""
    with Broker(tmp_path / "data", storage_engine=engine) as broker:
        assert ("not_durable" in broker.log()) == (engine == "memory")
        assert ("records are lost when the broker stops" in broker.log()) == (engine == "memory")
