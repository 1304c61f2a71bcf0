"""Flipped bits, files cut short and lost logs are refused, reported on reading, or harmless; never silent."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from takhin.schema import PAGE_BYTES

from faults.damage import DAMAGES, PARTITIONS, TOPIC, Outcome, outcome
from takhin.disk import connection, wal
from takhin.disk.wal_sums import FRAME_BYTES
from takhin.storage.sqlite import reader

PROGRAM = Path(__file__).with_name("damage.py")
CONTROL_TRIALS = 25


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A data folder as SIGKILL left it, without -shm files, which the next opening creates."""
    data = tmp_path_factory.mktemp("killed") / "data"
    tests = PROGRAM.parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    subprocess.run([sys.executable, PROGRAM, data], env=environment, check=True)
    for path in data.glob("topics/*/*-shm"):
        path.unlink()
    for n in range(PARTITIONS):
        path = data / "topics" / TOPIC / f"{n}.db"
        assert path.stat().st_size > 512 << 10
        assert path.with_name(f"{n}.db-wal").stat().st_size > 256 << 10
    return data


async def outcomes(killed, folder, count, seed, *, forget_witness=False):
    """(damage, outcome, how it was reported) of each trial."""
    chance = random.Random(seed)
    for number in range(count):
        data = folder / "damaged"
        shutil.copytree(killed, data)
        if forget_witness:
            (data / "witness").unlink()
        damage = DAMAGES[number % len(DAMAGES)]
        what = damage(data / "topics" / TOPIC, chance)
        try:
            came, told = await outcome(data)
        except Exception as error:
            error.add_note(what)
            raise
        shutil.rmtree(data)
        yield what, damage.__name__, came, told


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_damage_is_never_silent(killed, tmp_path, count, figures):
    """An engine refuses a damaged folder, serves what was acknowledged, or reports the damage on reading."""
    seed = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"FAULT_SEED={seed}")
    counted = Counter()
    async for what, _, came, told in outcomes(killed, tmp_path, count, seed):
        assert came != Outcome.SILENT, f"{what}: {told}"
        if came in (Outcome.REFUSED, Outcome.ERROR):
            assert "0.db" in told or "1.db" in told or f"topic '{TOPIC}' partition" in told or TOPIC in told
            assert "\n" not in told
        counted[came] += 1
    assert counted[Outcome.REFUSED] > count // 5
    figures(f"damage: {count} times, 0 silent; " + ", ".join(f"{n} {came}" for came, n in counted.items()))


async def test_no_false_alarm(killed, tmp_path):
    """An undamaged folder is served, even if it was copied, or its witness is old or gone."""
    for number in range(6):
        data = tmp_path / str(number)
        shutil.copytree(killed, data)
        if number == 1:
            (data / "witness").unlink()
        elif number > 1:
            os.truncate(data / "witness", 32 * number)
        assert await outcome(data) == (Outcome.INTACT, "")
        assert await outcome(data) == (Outcome.INTACT, "")


async def test_a_short_file_beside_its_log(killed, tmp_path):
    """The log lacks some pages of the lost part; SQLite would read them as zeros, whose checksum matches."""
    pages = (killed / "topics" / TOPIC / "0.db").stat().st_size // PAGE_BYTES
    for left in (0, 1, 2, pages // 2):
        data = tmp_path / str(left)
        shutil.copytree(killed, data)
        os.truncate(data / "topics" / TOPIC / "0.db", left * PAGE_BYTES + (left % 2) * 512)
        came, told = await outcome(data)
        assert came == Outcome.REFUSED
        assert "is cut short" in told or left == 0, told


def test_a_log_that_is_cut_while_it_is_read(killed, tmp_path):
    """A log that a broker restarts during a read causes no error; what is gone is not read."""
    path = tmp_path / "0.db-wal"
    for name in ("0.db", "0.db-wal"):
        shutil.copy(killed / "topics" / TOPIC / name, tmp_path)
    for left in (100, 0):
        found = wal.frames(path)
        assert next(found).whole
        os.truncate(path, wal.HEAD.size + FRAME_BYTES + left)
        assert list(found) == []
    os.truncate(path, 10)
    assert list(wal.frames(path)) == []


@pytest.mark.control
async def test_without_checksums_and_witness_it_is_silent(killed, tmp_path, monkeypatch, figures):
    """Control: without checksums, witness and zero_tails, damage goes unnoticed, and the test sees it."""
    monkeypatch.setattr(connection, "open_writer", unchecked(connection.open_writer))
    monkeypatch.setattr(connection, "open_reader", unchecked(connection.open_reader))
    monkeypatch.setattr(reader, "check_record", lambda *_: None)
    silent = Counter()
    async for _, damage, came, _ in outcomes(killed, tmp_path, CONTROL_TRIALS, 1, forget_witness=True):
        silent[damage] += came == Outcome.SILENT
    figures(f"damage, control: silent in {silent.total()} of {CONTROL_TRIALS}: {dict(silent)}")
    assert silent["remove_wal"] == CONTROL_TRIALS // len(DAMAGES)
    assert silent["flip_in_wal"] > 0
    assert silent["flip_in_db"] > 0
    assert silent["zero_last_page"] > 0


def unchecked(opener):
    def opened(path):
        made = opener(path)
        made.pragma("checksum_verification", 0)
        return made

    return opened
