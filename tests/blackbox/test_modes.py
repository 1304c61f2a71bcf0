"""Who may read the data: by default its owner alone, whatever the umask of who starts the broker."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import forked
from blackbox.broker_process import Broker, command, environment
from blackbox.clients import connected, create_topic, eventually, produce

MODES = {"owner": (0o700, 0o600), "group": (0o750, 0o640), "all": (0o755, 0o644)}
"""The modes of folders and files, by the setting storage.readers."""


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    """The umask that processes started by the test begin with."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """The mode of a folder and of all in it, by path."""
    return {str(path): stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))}


def odd(folder: Path, readers: str) -> dict[str, str]:
    """What in a folder does not have the mode that it should have."""
    wanted = MODES[readers]
    return {
        path: oct(mode) for path, mode in modes(folder).items() if mode != wanted[not Path(path).is_dir()]
    }


def takhin(*args: object, **settings: object) -> None:
    forked.run(command(*args), check=True, env=environment(**settings), timeout=60, capture_output=True)


@pytest.mark.parametrize("readers", MODES)
def test_everything_has_the_mode_that_the_setting_says(memory, umask, readers):
    """LOCK, witness, ballast, files with their -wal and -shm, copies and what is restored: all of it."""
    data, copy, restored = memory / "deep" / "data", memory / "copy", memory / "restored"
    with Broker(data, lent=False, storage_readers=readers) as broker:
        with connected(broker.address) as stub:
            create_topic(stub, "topic", 2)
            produce(stub, "topic", [b"to be damaged"] * 10)
        (data / "hold").touch(mode=MODES[readers][1])
        (data / "hold").chmod(MODES[readers][1])
        eventually((data / "held").exists)
        there = {path.rpartition("/")[2] for path in modes(data)}
        assert there >= {"LOCK", "witness", "ballast", "held", "tmp", "0.db", "0.db-wal", "0.db-shm"}
        assert odd(data, readers) == {}
        assert odd(memory / "deep", readers) == {}
        takhin("backup", copy, "--data-dir", data, storage_readers=readers)
        assert odd(copy, readers) == {}
        (data / "hold").unlink()
    takhin("restore", copy, "--data-dir", restored, "--readers", readers)
    assert odd(restored, readers) == {}
    file = restored / "topics" / "topic" / "0.db"
    file.write_bytes(file.read_bytes().replace(b"to be damaged", b"has a damage "))
    takhin("recover", "--data-dir", restored, "--readers", readers)
    assert (restored / "aside").exists()
    assert odd(restored, readers) == {}


def test_what_exists_keeps_its_mode(data_dir):
    """A folder and files from before keep their modes, and so do a -wal and a -shm made beside them."""
    before = os.umask(0o022)
    try:
        with Broker(data_dir, lent=False, storage_readers="all") as broker, connected(broker.address) as stub:
            create_topic(stub, "old")
        with Broker(data_dir) as broker, connected(broker.address) as stub:
            produce(stub, "old", [b"v"])
            create_topic(stub, "new")
            produce(stub, "new", [b"v"])
            assert odd(data_dir / "topics" / "old", "all") == {}
            assert odd(data_dir / "topics" / "new", "owner") == {}
            assert stat.S_IMODE(data_dir.stat().st_mode) == 0o755
    finally:
        os.umask(before)
