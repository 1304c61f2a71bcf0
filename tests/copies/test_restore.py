"""`takhin restore` puts back what was there, completely or not at all, and lets nothing hostile in."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from takhin.schema import VERSION

import forked
from blackbox.broker_process import Broker, command
from copies.folders import TOPIC, content, file, fill, flip_value, given, in_child, incarnations, tree
from storage.support import check_files
from takhin.copies.backup import backup
from takhin.copies.restore import Selection, restore
from takhin.copies.verify import verify
from takhin.disk.header import file_header
from takhin.errors import CopyError, StartupError

REPLACE = Selection(replace=True)


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """A backup of `data`."""
    backup(data, tmp_path / "copy")
    return tmp_path / "copy"


async def test_a_backup(data, copy, tmp_path):
    """Every record, header and committed offset comes back, under new incarnation ids."""
    before = await content(data)
    (restored,) = restore(copy, tmp_path / "again")
    assert await content(tmp_path / "again") == before
    old, new = await incarnations(data), await incarnations(tmp_path / "again")
    assert [log.incarnation_id for log in restored.logs] == new
    assert not set(old) & set(new)
    assert restored.aside is None


@pytest.mark.parametrize("kind", ["folder", "tar", "gz", "prefix"])
async def test_a_copy_with_write_ahead_logs(kind, killed, tmp_path):
    """A folder or an archive, with or without a root folder, is restored; the source is unchanged."""
    source = killed
    if kind != "folder":
        source = tmp_path / "data.archive"
        with tarfile.open(source, "w:gz" if kind == "gz" else "w") as tar:
            tar.add(killed, "backups/monday" if kind == "prefix" else ".")
    before = tree(tmp_path)
    restore(source, tmp_path / "again")
    assert {at: of for at, of in tree(tmp_path).items() if not at.startswith("again")} == before
    assert sorted(path.name for path in file(tmp_path / "again").parent.iterdir()) == ["0.db", "1.db"]
    assert await content(tmp_path / "again") == await content(killed)


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_an_older_schema(version, tmp_path):
    """A folder of an older schema, in a .tar.xz archive, is upgraded while it is restored."""
    restore(Path(__file__).parents[1] / f"fixtures/schema-{version}.tar.xz", tmp_path / "again")
    assert file_header(file(tmp_path / "again")).user_version == VERSION
    assert [len(rows) for rows in (await content(tmp_path / "again"))["orders"]] == [2_904, 10, 0]


async def test_an_older_log_takes_the_place_of_a_newer(data, copy, tmp_path):
    """An older log needs --replace; then a broker starts on it, and what was there is in aside/, complete."""
    older = await content(data)
    await fill(data, records=100)
    newer = await content(data)
    before = tree(data / "topics")
    with pytest.raises(CopyError, match=f"{TOPIC} is there already: --replace"):
        restore(copy, data)
    assert tree(data / "topics") == before
    (restored,) = restore(copy, data, REPLACE)
    assert await content(data) == older
    assert restored.aside.parents[1] == data / "aside"
    assert tree(restored.aside) == tree_of(before, TOPIC)
    await fill(data, records=100)
    assert await content(data) == newer


def tree_of(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {at.removeprefix(f"{folder}/"): of for at, of in files.items() if at.startswith(f"{folder}/")}


async def test_one_partition(data, copy):
    """One partition is replaced although its successor was damaged; the other is unchanged."""
    older = await content(data)
    await fill(data, records=100)
    newer = await content(data)
    flip_value(file(data, 1), 650)
    damaged, other = file(data, 1).read_bytes(), file(data).read_bytes()
    wanted = Selection(topic=TOPIC, partition=1, replace=True)
    with pytest.raises(CopyError, match="is there already"):
        restore(copy, data, Selection(topic=TOPIC, partition=1))
    (restored,) = restore(copy, data, wanted)
    assert (restored.aside / "1.db").read_bytes() == damaged
    assert file(data).read_bytes() == other
    assert await content(data) == {TOPIC: [newer[TOPIC][0], older[TOPIC][1]]}
    file(data, 1).unlink()  # the old file is out of the way
    assert restore(copy, data, Selection(topic=TOPIC, partition=1))[0].aside is None


async def test_a_partition_over_one_with_a_write_ahead_log(killed, tmp_path):
    """The old write-ahead log is not applied to the new file, which began like the old one."""
    backup(killed, tmp_path / "copy")
    older = await content(given(killed, tmp_path / "older"))
    grown = tmp_path / "grown"
    given(killed, grown)
    await fill(grown, records=200, killed=True)
    assert file(grown, 1).with_name("1.db-wal").stat().st_size
    restore(tmp_path / "copy", grown, Selection(topic=TOPIC, partition=1, replace=True))
    assert not file(grown, 1).with_name("1.db-wal").exists()
    assert (await content(grown))[TOPIC][1] == older[TOPIC][1]


async def test_a_partition_of_another_topic(data, killed, tmp_path):
    """A partition of a topic with the same name but another id is refused."""
    backup(data, tmp_path / "copy")
    with pytest.raises(CopyError, match="belongs to another topic"):
        restore(tmp_path / "copy", killed, Selection(topic=TOPIC, partition=1, replace=True))
    assert len((await content(killed))[TOPIC][1]) == 600


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda copy: flip_value(file(copy, 1), 300), "1.db is not put back: a page does not match"),
        (lambda copy: file(copy, 1).unlink(), "is not whole"),
        (lambda copy: (copy / "backup.json").write_text("{}"), "is not the manifest"),
        (lambda copy: file(copy).rename(file(copy, 7)), "misplaced"),
        (lambda copy: file(copy).with_name("x").touch(), "'x' does not belong"),
        (lambda copy: file(copy).rename(copy / "0") and file(copy).symlink_to(copy / "0"), "'0.db' does"),
        (lambda copy: (copy / "topics" / "other").symlink_to(copy / "topics" / TOPIC), "is not the folder"),
        (lambda copy: (copy / "topics" / TOPIC).rename(copy / "topics" / "a b"), "invalid topic name"),
        (
            lambda copy: (copy / "topics").rename(copy / "t") and (copy / "topics").symlink_to("t"),
            "is a link",
        ),
    ],
)
def test_a_bad_source_changes_nothing(damage, sentence, data, copy):
    """A bad source is refused by name before the catalogue is changed."""
    before = tree(data / "topics")
    damage(copy)
    with pytest.raises(CopyError, match=sentence):
        restore(copy, data, REPLACE)
    assert tree(data / "topics") == before


async def test_one_bad_topic_of_several(data, tmp_path):
    """If one topic cannot be put back none is, and the sentence says so and what restores the others."""
    await fill(data, topic="zebra", records=100)
    copy = tmp_path / "copy2"
    backup(data, copy)
    flip_value(file(copy, 1), 300)
    sentence = r"^nothing was restored: .*1.db is not put back: .*; --topic restores one of the others$"
    with pytest.raises(CopyError, match=sentence):
        restore(copy, tmp_path / "new")


async def test_a_copy_without_its_write_ahead_logs(killed, tmp_path):
    """SQLite finds nothing wrong with such a copy, but the witness in it does."""
    file(killed, 1).with_name("1.db-wal").unlink()
    with pytest.raises(CopyError, match="it is short: the acknowledged offsets 0 to 599 are missing"):
        restore(killed, tmp_path / "again")


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "hostile",
    [
        member("../topics/orders/0.db", size=4),
        member("data/../../topics/orders/0.db", size=4),
        member("/topics/orders/0.db", size=4),
        member("topics/orders/0.db", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("topics/orders/0.db", tarfile.LNKTYPE, linkname="../../../secret"),
        member("topics/orders", tarfile.SYMTYPE, linkname=".."),
        member("topics/orders/0.db", tarfile.FIFOTYPE),
        member("topics/orders/0.db", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("topics/orders/0.db-journal", size=4),
        member("topics/orders/00.db", size=4),
        member("topics/__orders/0.db", size=4),
        member("topics/or\nders/0.db", size=4),
        member("topics\\orders\\0.db", size=4),
        member("other/topics/orders/9.db", size=4),
        member("somewhere/else", tarfile.SYMTYPE, linkname="/"),
    ],
    ids=lambda info: f"{info.name!r} {info.type!r}",
)
def test_a_hostile_archive(hostile, data, tmp_path):
    """A hostile archive is refused in one sentence; it changes neither the catalogue nor anything outside."""
    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(data, ".")
        tar.addfile(hostile, io.BytesIO(b"evil") if hostile.size else None)
    before = tree(tmp_path)
    with pytest.raises(CopyError, match=r"hostile\.tar (is refused|holds more than one)") as refused:
        restore(archive, tmp_path / "new")
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "new" / "topics").iterdir()) == []
    assert {at: of for at, of in tree(tmp_path).items() if not at.startswith("new/")} == before


@pytest.mark.parametrize("junk", [b"", b"junk" * 1000, bytes.fromhex("fd377a585a00") + b"x" * 100])
def test_no_archive(junk, tmp_path):
    """A file that is not an archive is refused."""
    (tmp_path / "junk").write_bytes(junk)
    with pytest.raises(CopyError, match=r"not a tar archive|holds neither a data folder"):
        restore(tmp_path / "junk", tmp_path / "new")


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_damaged_archive(data, tmp_path, compression, damage):
    """An archive that ends in the middle is refused, and one that cannot be unpacked there."""
    archive = tmp_path / "archive"
    with tarfile.open(archive, f"w:{compression}") as tar:
        tar.add(data, ".")
    whole = archive.read_bytes()
    half = whole[: len(whole) // 2]
    archive.write_bytes(half if damage == "cut short" else half + bytes(20_000))
    with pytest.raises(CopyError, match=r"is not a tar archive, or a damaged one|match its checksum"):
        restore(archive, tmp_path / "new")


STEPS = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "shutil.copyfile",
    "shutil.rmtree",
    "ctypes.dlopen",
}


@pytest.mark.parametrize("partition", [None, 1], ids=["topic", "partition"])
async def test_killed_at_every_step(partition, data, copy, tmp_path):
    """After a kill at any step a broker starts on the old or the new folder, and another try succeeds."""
    older = await content(data)
    await fill(data, records=100)
    newer = await content(data)
    changed = [older[TOPIC][0] if partition is None else newer[TOPIC][0], older[TOPIC][1]]
    wanted = Selection(topic=TOPIC, partition=partition, replace=True)
    outcomes = []
    for step in range(1, 100):
        folder = given(data, tmp_path / f"try{step}")

        def work(folder: Path = folder, step: int = step) -> None:
            seen = 0

            def kill(event: str, args: tuple[object, ...]) -> None:
                nonlocal seen
                directory = event == "open" and isinstance(args[2], int) and args[2] & os.O_DIRECTORY
                if event in STEPS or directory:
                    seen += 1
                    if seen == step:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill)
            restore(copy, folder, wanted)

        ended = in_child(work)
        found = (await content(folder, checked=step % 4 == 0))[TOPIC]
        assert found in (newer[TOPIC], changed)
        outcomes.append(found == changed)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        if step % 8 == 0:
            restore(copy, folder, wanted)
            assert (await content(folder))[TOPIC] == changed
    assert outcomes[-1]
    assert outcomes == sorted(outcomes)
    assert outcomes.count(True) > 1  # the last kill came after the end
    assert len(outcomes) > 10


def test_refusals(data, copy, tmp_path):
    """A bad source, a data folder in use, and a partition without its topic are refused."""
    for source, sentence in (
        (tmp_path / "nosuch", "there is no"),
        (data, "is part of the data folder"),
        (data / "topics", "is part of the data folder"),
        (tmp_path, "or holds it"),
    ):
        with pytest.raises(CopyError, match=sentence):
            restore(source, data, REPLACE)
    with pytest.raises(CopyError, match="there is no topic 'nosuch' in"):
        restore(copy, data, Selection(topic="nosuch"))
    with pytest.raises(CopyError, match="to put a partition into"):
        restore(copy, tmp_path / "new", Selection(topic=TOPIC, partition=1))
    with Broker(data):
        with pytest.raises(StartupError, match="is in use by another broker"):
            restore(copy, data, REPLACE)
        with pytest.raises(CopyError, match=f"a broker runs on {data}"):
            restore(data, tmp_path / "new")


def test_the_command(data, copy):
    """The command reports what it did, and what else it needs."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        line = command("restore", copy, "--data-dir", data, *args)
        return forked.run(line, capture_output=True, text=True, check=False)

    done = run("--partition", 1)
    assert (done.returncode, done.stderr) == (
        1,
        "takhin: --partition needs --topic (see takhin restore --help)\n",
    )
    done = run("--topic", TOPIC, "--replace")
    pattern = rf"restored topic orders, 2 partitions; what was there is in {data}/aside/\S+/orders\n"
    assert re.fullmatch(pattern, done.stdout), done
    check_files(data)
    assert verify(data).ok
