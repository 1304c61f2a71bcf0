"""`takhin doctor`: each trouble is made, and must be found; what is well is not complained about."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time

import pytest

from blackbox.broker_process import Broker, command, environment
from blackbox.clients import connected, create_topic, eventually, produce
from blackbox.small_disk import filler, small_disk
from certificates import Authority
from takhin import config
from takhin.copies.backup import backup
from takhin.doctor.examination import examine
from takhin.doctor.findings import Finding, Level
from takhin.doctor.fit import NO_MORE, settings_fit

OF_THIS_MACHINE = re.compile("no time service|a sync of 16 KiB takes")
"""Findings that depend on where the tests run."""


def doctor(data_dir, *args, prefix=(), **settings):
    """What `takhin doctor --json` finds that is not OK, by what it is about."""
    done = subprocess.run(
        [*prefix, *command("doctor", "--json", "--data-dir", data_dir, *args)],
        env=environment(**{"listen": "127.0.0.1:0"} | settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    findings = [Finding(**one | {"level": Level[one["level"]]}) for one in document["findings"]]
    assert done.returncode == Level[document["level"]] == max(one.level for one in findings)
    return troubles(findings)


def examined(data_dir, **settings):
    """The same without a process of its own: what is found that is not OK."""
    flags = {"data_dir": str(data_dir), "listen": "127.0.0.1:0"} | {
        f"storage.{name}": value for name, value in settings.items()
    }
    return troubles(examine(config.load(flags, {}, None).settings))


def troubles(findings):
    assert all(one.what and (one.do or one.level == Level.OK) for one in findings)
    found = [one for one in findings if one.level != Level.OK and not OF_THIS_MACHINE.search(one.what)]
    return {one.about: one for one in found}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A data folder of a stopped broker, with a topic of two partitions."""
    folder = tmp_path_factory.mktemp("doctor") / "data"
    with Broker(folder) as broker, connected(broker.address) as stub:
        create_topic(stub, "topic", 2)
        produce(stub, "topic", [b"value"] * 3)
    return folder


@pytest.fixture
def folder(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "data")


def state(folder):
    """All that another program could notice of a folder."""
    return {
        str(path): (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
        for path in (folder, *folder.rglob("*"))
        if (found := path.lstat())
    }


def test_a_sound_folder_is_well_and_stays_as_it_is(folder):
    """Nothing is found on a stopped broker's folder, and nothing in it is changed."""
    before = state(folder)
    assert examined(folder) == {}
    assert state(folder) == before


def test_beside_a_running_broker(folder):
    """A running broker is well, and goes on: its files are locked and acknowledged as before."""
    with Broker(folder) as broker, connected(broker.address) as stub:
        for round_ in range(3):
            produce(stub, "topic", [b"value"] * 3)
            assert (examined if round_ else doctor)(folder) == {}, round_
        broker.kill()
        found = examined(folder)
        assert found.keys() == {"broker"}
        assert "the last one did not end by itself" in found["broker"].what
    with Broker(folder) as broker, connected(broker.address) as stub:
        produce(stub, "topic", [b"value"])


@pytest.mark.parametrize(
    ("make", "about", "level", "said"),
    [
        (lambda path: None, "", "OK", ""),
        (lambda path: path.mkdir(), "", "OK", ""),
        (lambda path: (path / "lost+found").mkdir(parents=True), "", "OK", ""),
        (lambda path: path.touch(), "folder", "BAD", "is not a folder"),
        (lambda path: path.symlink_to("nowhere"), "folder", "BAD", "is not a folder"),
        (lambda path: (path / "photos").mkdir(parents=True), "folder", "BAD", "is it the right folder?"),
        (os.mkfifo, "folder", "BAD", "is not a folder"),
    ],
    ids=["absent", "empty", "new disk", "file", "dead link", "foreign", "fifo"],
)
def test_what_is_no_data_folder(tmp_path, make, about, level, said):
    """A folder that a broker may make its own is well; anything else is named, and not walked through."""
    make(tmp_path / "data")
    found = examined(tmp_path / "data")
    found.pop("permissions", None)  # a folder that this test made with its own umask
    assert found.keys() == ({about} if about else set())
    if about:
        assert found[about].level == Level[level]
        assert said in found[about].what


def test_a_backup_is_not_to_be_served(folder, tmp_path):
    """A backup given as the data folder is called one."""
    backup(folder, tmp_path / "copy")
    assert "is a backup" in examined(tmp_path / "copy")["folder"].what


def damage(folder):
    (folder / "topics/topic/1.db").write_bytes(bytes(16_384))


def newer(folder):
    path = folder / "topics/topic/1.db"
    content = bytearray(path.read_bytes())
    content[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(content)


def fifo(folder):
    (folder / "topics/topic/1.db").unlink()
    os.mkfifo(folder / "topics/topic/1.db", 0o600)


def future(folder):
    os.utime(folder / "topics/topic/1.db", (time.time() + 90_000,) * 2)


TROUBLES = {
    "damaged": (damage, "files", "BAD", "1 of 2 partitions' files cannot be used"),
    "newer": (newer, "files", "BAD", "schema version 99"),
    "fifo": (fifo, "files", "BAD", "not a plain file"),
    "readable": (lambda of: (of / "topics/topic/0.db").chmod(0o644), "permissions", "WARN", "0.db"),
    "clock": (future, "clock", "BAD", "s after that"),
    "hold": (lambda of: (of / "hold").touch(0o600), "leftovers", "WARN", "hold is there"),
    "stranger": (lambda of: (of / "topics/copy of 0.db").touch(0o600), "leftovers", "WARN", "copy of 0.db"),
    "no witness": (lambda of: (of / "witness").unlink(), "broker", "WARN", "witness is gone"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_is_found(folder, name):
    """Each trouble of a folder is the one finding about it."""
    make, about, level, said = TROUBLES[name]
    make(folder)
    found = examined(folder)
    assert found.keys() - {about} <= {"leftovers"}  # where a file is no partition's any more
    assert found[about].level == Level[level]
    assert said in found[about].what


def test_an_old_hold_beside_a_broker(folder):
    """A hold is well while somebody copies, and is named when it has lasted."""
    with Broker(folder):
        (folder / "hold").touch(0o600)
        eventually((folder / "held").exists)
        assert examined(folder) == {}
        assert examined(folder, hold_age_ms_max=1).keys() == {"leftovers"}


def test_tokens_are_for_the_broker_alone(folder):
    """Where all may read the records, access.db is still to be read by its owner alone."""
    (folder / "access.db").touch(0o600)
    assert examined(folder, readers="all") == {}
    (folder / "access.db").chmod(0o640)
    assert "access.db" in examined(folder, readers="all")["permissions"].what


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user take root")
def test_files_of_another_user(folder):
    """A file that root has left in another user's folder is named, with the command that mends it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65_534, 65_534)
    os.chown(folder / "topics/topic/0.db", 0, 0)
    found = examined(folder)
    assert found.keys() == {"permissions"}
    assert found["permissions"].level == Level.BAD
    assert f"chown -R --reference={folder} {folder}" in found["permissions"].do


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files in another user's folder")
@pytest.mark.parametrize("line", [("restore", "{folder}"), ("recover",)])
def test_root_makes_nothing_in_another_users_folder(folder, tmp_path, line):
    """`restore` and `recover` refuse to work as root where the broker could not use what they make."""
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, 65_534, 65_534)
    words = [word.format(folder=folder) for word in line]
    done = subprocess.run(
        command(*words, "--data-dir", other), capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 1
    assert "belongs to another user" in done.stderr
    assert not list(other.iterdir())


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="takes root and setpriv")
def test_as_another_user(folder):
    """Who may not read the folder is told to be somebody else; the machine is looked at all the same."""
    nobody = ("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--bounding-set=-all")
    for path in folder.parents[:4]:
        path.chmod(0o755)
    if subprocess.run([*nobody, *command("--version")], capture_output=True, check=False).returncode:
        pytest.skip("another user may not run this interpreter")
    found = doctor(folder, prefix=nobody)
    assert found.keys() == {"folder"}
    assert "may not be read by this user" in found["folder"].what


def test_a_small_full_disk(stopped, tmp_path):
    """A disk in memory is called forgetful, and a full one full; the sync that has no room is a finding."""
    with small_disk(tmp_path / "disk") as disk:
        folder = shutil.copytree(stopped, disk / "data")
        found = examined(folder, ballast_bytes=0, free_bytes_low=1)
        assert found.keys() == {"file system"}
        assert "all records are lost when the machine stops" in found["file system"].what
        assert examined(folder)["space"].level == Level.WARN
        system = os.statvfs(disk)
        with filler(disk, system.f_bavail * system.f_frsize):
            found = examined(folder)
            assert found["space"].level == Level.BAD or "storage." in found["space"].what
            assert "No space left on device" in found["sync"].what


def test_limits_that_a_small_disk_cannot_meet(stopped):
    """A ballast that fits twice into no free space is a finding, and so is a mark above the whole disk."""
    system = os.statvfs(stopped)
    disk = system.f_blocks * system.f_frsize
    found = examined(stopped, ballast_bytes=disk)
    assert "after it was full, it never has" in found["space"].what
    assert "it always counts as low" in examined(stopped, free_bytes_low=disk + 1)["space"].what


def test_addresses(folder):
    """An address that is taken, or not of this machine, is bad; beside the broker that has it, it is not."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = doctor(folder, listen=address, metrics_listen=address)["address"]
        assert (found.level, found.what) == (
            Level.BAD,
            f"no broker can listen on {address}: another process listens there",
        )
    found = doctor(folder, listen="192.0.2.1:9092")["address"]
    assert found.what.endswith("this machine has no such address")
    with Broker(folder) as broker:
        assert "address" not in doctor(folder, listen=broker.address)


def test_certificates(folder, tmp_path):
    """A certificate is judged as a start judges it; its end, its names and its key's mode are looked at."""
    Authority().issue("broker").save(tmp_path)
    tls = {"tls.certificate_file": str(tmp_path / "broker.pem"), "tls.key_file": str(tmp_path / "broker.key")}

    def found(listen="tls://127.0.0.1:0", **other):
        flags = {"data_dir": str(folder), "listen": listen} | tls | other
        return troubles(examine(config.load(flags, {}, None).settings))

    assert found() == {}
    assert found("127.0.0.1:0") == {}
    assert "tls.client_ca_file" in found("mtls://127.0.0.1:0")["certificate"].do
    assert "expires on" in found(**{"tls.expiry_warning_days": "10000"})["certificate"].what
    (tmp_path / "broker.key").chmod(0o644)
    assert "others may read" in found()["certificate"].what
    Authority().issue("broker").save(tmp_path, "other")
    tls["tls.key_file"] = str(tmp_path / "other.key")
    assert found()["certificate"].level == Level.BAD
    assert "does not belong" in found()["certificate"].what


def test_limits(folder):
    """Too few descriptors, small files and more memory than there is are each found."""
    prefix = ("prlimit", "--nofile=64:64", "--fsize=1000000000")
    found = doctor(folder, prefix=prefix, storage_queue_bytes_max=1 << 50)
    assert found.keys() == {"limits", "memory"}


@pytest.mark.parametrize("row", NO_MORE, ids=lambda row: row[0])
def test_settings_that_do_not_fit(tmp_path, row):
    """Each setting that exceeds its bound is a warning that names both; by default all fit."""
    less, more, _ = row
    flags = {"data_dir": str(tmp_path / "data")}
    highest = config.OPTIONS[less].kind.most
    for given, level in (({}, Level.OK), ({less: str(highest)}, Level.WARN)):
        low = {more: str(max(1, config.OPTIONS[more].kind.least))} if given else {}
        found = list(settings_fit(config.load(flags | given | low, {}, None).settings))
        assert max(one.level for one in found) == level
    assert any(less in one.what and more in one.what for one in found)


def test_settings_that_do_not_load(folder, tmp_path):
    """A mistake in the settings is bad, and the rest is looked at with the defaults."""
    found = doctor(folder, rpc_conections_max=5)
    assert found.keys() == {"settings"}
    assert "TAKHIN_RPC_CONNECTIONS_MAX" in found["settings"].what
    (tmp_path / "takhin.toml").write_text("[storage]\nballast = 3\n")
    assert doctor(folder, "--config", tmp_path / "takhin.toml").keys() == {"settings"}


def test_lines_for_people(folder):
    """Without --json each finding is a line, with what to do below it; stdout may be closed, or no UTF-8."""
    (folder / "hold").touch()
    shell = f"{' '.join(command('doctor', '--data-dir', folder))}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False, env=environment())
    assert done.returncode == 1
    assert b"WARN  leftovers: " in done.stdout
    assert b"      do: remove it if nobody is copying the folder" in done.stdout
    closed = subprocess.run(["bash", "-c", f"{shell} >&-"], capture_output=True, check=False)
    assert closed.returncode == 1
    posix = environment() | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "HOME": "/nowhere"}
    assert subprocess.run(command("doctor"), capture_output=True, check=False, env=posix).returncode <= 1
