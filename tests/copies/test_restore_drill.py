"""A drill: a data folder is damaged, which is noticed, and a backup repairs it. Also hostile archives."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from copies.folders import TOPIC, content, file, fill, flip_value, incarnations, tree
from takhin.copies.backup import backup
from takhin.copies.restore import Selection, restore
from takhin.errors import CopyError, TakhinError

FULL = [pytest.mark.soak, pytest.mark.timeout(1_800)]


def chance():
    """A generator with the seed of FAULT_SEED or else a new one, which is printed."""
    seed = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"FAULT_SEED={seed}")
    return random.Random(seed)


def flipped(data: Path) -> None:
    flip_value(file(data, 1), 300)


def short(data: Path) -> None:
    os.truncate(file(data, 1), file(data, 1).stat().st_size // 2)


def gone(data: Path) -> None:
    file(data, 1).unlink()


def topic_gone(data: Path) -> None:
    shutil.rmtree(data / "topics" / TOPIC)


def all_gone(data: Path) -> None:
    shutil.rmtree(data)


HARMS = [flipped, short, gone, topic_gone, all_gone]


async def noticed(data: Path) -> bool:
    """True if a broker's engine refuses to start on the folder, or reports the damage when it reads."""
    try:
        await content(data, checked=False)
    except TakhinError as error:
        return TOPIC in str(error)
    return False


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=FULL)])
async def test_the_drill(tmp_path, rounds, figures):
    """All damage is noticed; the restored logs equal the backup, have new ids, and take records."""
    pick, done = chance(), Counter()
    for number in range(rounds):
        data, copy = tmp_path / "data", tmp_path / "copy"
        await fill(data, records=100 * pick.randint(4, 8), killed=pick.random() < 0.5)
        backup(data, copy)
        backed_up, ids = await content(data), await incarnations(data)
        await fill(data, records=100 * pick.randint(1, 3))
        grown = await content(data)
        harm = HARMS[number % len(HARMS)]
        harm(data)
        assert harm in (topic_gone, all_gone) or await noticed(data)
        source = archived(copy, tmp_path / "copy.tar.gz") if pick.random() < 0.5 else copy
        alone = harm is gone or (harm in (flipped, short) and pick.random() < 0.5)
        restore(source, data, Selection(TOPIC, 1, replace=True) if alone else Selection(replace=True))
        changed = {1} if alone else {0, 1}
        expected = [(backed_up if n in changed else grown)[TOPIC][n] for n in range(2)]
        assert await content(data) == {TOPIC: expected}
        new_ids = await incarnations(data)
        assert {n for n in range(2) if new_ids[n] != ids[n]} == changed
        await fill(data, records=100)
        after = (await content(data))[TOPIC]
        assert [after[n][: len(expected[n])] for n in range(2)] == expected
        done["one partition" if alone else "all"] += 1
        done["records"] += sum(len(log) for log in expected)
        for path in (data, copy):
            shutil.rmtree(path)
    figures(
        f"restore drill: {rounds} rounds ({done['all']} all, {done['one partition']} one partition), "
        f"{done['records']} records byte-equal, new incarnation ids"
    )


def archived(folder: Path, archive: Path, *hostile: tarfile.TarInfo) -> Path:
    """A folder as an archive, with foreign members added."""
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        tar.add(folder, ".")
        for info in hostile:
            tar.addfile(info, io.BytesIO(b"evil") if info.size else None)
    return archive


ABOVE = [
    "..",
    "./..",
    "topics/../..",
    "topics/orders/../../..",
    "topics/./../..",
    "x/../../..",
    "",
    "/",
    "//",
]
LEADS_TO = ["..", "/etc/passwd", "../../../evil", "/", "topics", "../orders", "0.db"]


def hostile_member(pick: random.Random) -> tarfile.TarInfo:
    """A member whose name leads out of the folder, or that is a link or a device."""
    leaf = pick.choice(
        ["evil", "topics/orders/9.db", "topics/orders/0.db", "topics/orders", "witness", "topics"]
    )
    if pick.random() < 0.5:
        info = tarfile.TarInfo(f"{pick.choice(ABOVE)}/{leaf}")
        info.size = 4
        return info
    info = tarfile.TarInfo(pick.choice(["topics/orders/9.db", "topics/evil", "topics/orders/evil"]))
    info.type = pick.choice(
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
    )
    info.linkname = pick.choice(LEADS_TO)
    return info


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=FULL)])
def test_hostile_archives(data, tmp_path, count, figures):
    """A hostile archive is refused in one sentence; it changes neither the catalogue nor anything outside."""
    pick, around = chance(), tmp_path / "around"
    around.mkdir()
    for _ in range(count):
        info = hostile_member(pick)
        archived(data, tmp_path / "hostile.tar", info)
        before = tree(tmp_path)
        with pytest.raises(CopyError, match=r"hostile\.tar (is refused|holds more than one)") as refused:
            restore(tmp_path / "hostile.tar", around / "new")
        assert "\n" not in str(refused.value), info.name
        assert list((around / "new" / "topics").iterdir()) == []
        shutil.rmtree(around / "new")
        assert tree(tmp_path) == before, info.name
        assert list(around.iterdir()) == []
    figures(f"hostile archives: {count}, each refused, nothing outside the data folder")
