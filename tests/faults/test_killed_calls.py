"""SIGKILL at each system call of creating, deleting and restoring a topic leaves it whole, or not there."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from faults.killed_calls import KEPT, PARTITIONS, RECORDS, RESTORES, SETTINGS, TOPIC
from storage.support import check_files, sqlite_engine
from takhin.copies.restore import restore
from takhin.errors import StartupError
from takhin.testing.contract import numbered, read_all, spec

PROGRAM = Path(__file__).with_name("killed_calls.py")

CALLS = (
    "openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,write,pwrite64,writev,"
    "ftruncate,fallocate,fsync,fdatasync,sendfile,copy_file_range,fchmod,chmod,link,linkat,symlink,exit_group"
)
"""All calls that change anything on the disk; it does not matter where between two of them a kill comes."""


@pytest.fixture
def killer(tmp_path):
    """Kills at a given call; the test is skipped if strace is missing or may not attach."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: scripts/install-packages tests")
    tests = PROGRAM.parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    command = [sys.executable, PROGRAM, tmp_path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        yield Killer(process, tmp_path)
        process.stdin.close()


class Killer:
    def __init__(self, process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._numbers = itertools.count()

    def calls(self, change: str) -> list[str]:
        """The names of all calls that the change makes, in order."""
        trace = self._folder / "trace"
        _, code = self._run(change, "-o", str(trace))
        assert code == 0
        return [line.partition("(")[0] for line in trace.read_text().splitlines() if "(" in line]

    def kill_at(self, change: str, call: str, number: int) -> tuple[Path, int]:
        """Kill the change at the `number`-th call with that name.

        Returns the data folder that it left, and its exit code: -9 if it was killed, 0 if it ended before.
        """
        return self._run(change, "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}")

    def _run(self, change: str, *options: str) -> tuple[Path, int]:
        folder = str(next(self._numbers))
        self._say(f"{folder} {change}")
        pid = self._process.stdout.readline().strip()
        command = ["strace", "-p", pid, "-e", f"trace={CALLS}", *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            said = strace.stderr.readline()
            if "not permitted" in said:
                pytest.skip(f"strace cannot be used here: {said.strip()}")
            assert "attached" in said, said
            self._say("go")
            code = int(self._process.stdout.readline())
        return self._folder / folder, code

    def _say(self, line: str) -> None:
        print(line, file=self._process.stdin)


async def faults_of(data: Path, change: str, *, done: bool = False) -> list[str]:
    """Start an engine on the folder; returns a sentence for each thing that is wrong or lost."""
    engine = sqlite_engine(data, **SETTINGS, strict=True)
    try:
        await engine.open()
    except StartupError as error:
        return [f"refused: {error}"]
    faults = []
    if len(await read_all(engine.topics[KEPT].partitions[0])) != RECORDS:
        faults.append(f"{KEPT} is not what it was")
    topic, records = engine.topics.get(TOPIC), RECORDS if change.endswith("delete") else 0
    if done and (topic is None) != change.endswith("delete"):
        faults.append(f"{change} was acknowledged and is not to be seen")
    if topic is not None and len(topic.partitions) != PARTITIONS:
        faults.append(f"{len(topic.partitions)} partitions are there")
    for log in topic.partitions if topic else ():
        if (log.end_offset, len(await read_all(log))) != (records, records):
            faults.append(f"partition {log.partition} ends at {log.end_offset}")
        await log.append(numbered(1))
    if topic is None:
        await engine.create_topic(spec(TOPIC, PARTITIONS))
    if left := [path.name for path in (data / "tmp").iterdir() if path.name != "template.db"]:
        faults.append(f"left behind: {left}")
    await engine.close()
    check_files(data)
    return faults


async def faults_of_restored(data: Path, change: str, *, done: bool = False, look: bool = True) -> list[str]:
    """The same for a restore: the old or the new must be there, and the new one after another try.

    look: True to start an engine before the other try as well.
    """
    what = change.removeprefix("careless ")
    faults = await neither_old_nor_new(data, what, done=done) if look else []
    restore(data.parent / "backup", data, RESTORES[what])
    return faults + [f"restored again: {fault}" for fault in await neither_old_nor_new(data, what, done=True)]


async def neither_old_nor_new(data: Path, what: str, *, done: bool) -> list[str]:
    """What is wrong if an engine finds neither the old topic nor the restored one."""
    engine = sqlite_engine(data, **SETTINGS, strict=True)
    try:
        await engine.open()
    except StartupError as error:
        return [f"refused: {error}"]
    kept, *logs = (log for name in (KEPT, TOPIC) for log in engine.topics[name].partitions)
    found = [[row[3] for row in await read_all(log)] for log in logs]
    old, new = ([b"%d" % n for n in range(count)] for count in (2 * RECORDS, RECORDS))
    changed = [new, new] if what == "restore" else [old, new]
    faults = []
    if found != changed and (done or found != [old, old]):
        faults.append(f"{[len(values) for values in found]} records in the partitions")
    if kept.end_offset != RECORDS:
        faults.append(f"{KEPT} is not what it was")
    await engine.close()
    check_files(data)
    return faults


async def kill_at_each(killer: Killer, change: str, step: int, check=faults_of):
    """Kill at every `step`-th call and at the last; yields (call, faults).

    On a busy machine a change makes a call more or less (a checkpoint that a commit did not wait for), so a
    few ends come before their kill.
    """
    calls = killer.calls(change)
    places = sorted({*range(0, len(calls), step), len(calls) - 1})
    missed = 0
    for at in places:
        data, code = killer.kill_at(change, calls[at], calls[: at + 1].count(calls[at]))
        assert code in (0, -9)
        missed += code == 0
        name = f"{at + 1} of {len(calls)}, {calls[at]}" if code else "none"
        yield name, await check(data, change, done=code == 0)
        shutil.rmtree(data)
    assert missed <= len(places) // 4
    data, code = killer.kill_at(change, calls[0], len(calls))
    assert code == 0
    yield "none", await check(data, change, done=True)


EVERY_CALL = [pytest.mark.soak, pytest.mark.timeout(1_200)]


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ("create", 40),
        ("delete", 20),
        pytest.param("create", 1, marks=EVERY_CALL),
        pytest.param("delete", 1, marks=EVERY_CALL),
    ],
)
async def test_all_or_nothing(killer, change, step, figures):
    """A topic that was being created or deleted is whole or gone and usable or creatable; nothing is left."""
    kills = 0
    async for call, faults in kill_at_each(killer, change, step):
        assert faults == [], f"killed at call {call}"
        kills += call != "none"
    figures(f"SIGKILL within {change}: {kills} kills, every {step}. of its calls, 0 halves")


@pytest.mark.parametrize(
    ("change", "look", "step"),
    [
        ("restore", True, 60),
        ("restore-partition", False, 75),
        *(pytest.param(what, look, 1, marks=EVERY_CALL) for what in RESTORES for look in (True, False)),
    ],
)
async def test_a_restore(killer, change, look, step, figures):
    """An engine finds the old or the new, and another try succeeds, even without starting an engine first."""
    kills, check = 0, partial(faults_of_restored, look=look)
    async for call, faults in kill_at_each(killer, change, step, check):
        assert faults == [], f"killed at call {call}"
        kills += call != "none"
    then = "a start and another try" if look else "another try at once"
    figures(f"SIGKILL within {change}, then {then}: {kills} kills, every {step}. of its calls, 0 halves")


@pytest.mark.control
@pytest.mark.parametrize(
    ("change", "step", "check"),
    [
        ("careless create", 20, faults_of),
        ("careless delete", 1, faults_of),
        pytest.param("careless restore", 10, faults_of_restored, marks=pytest.mark.soak),
    ],
)
async def test_a_change_in_the_open_is_seen(killer, change, step, check, figures):
    """Control: if the change is made in the catalogue itself, half a topic is found."""
    halves = [call async for call, faults in kill_at_each(killer, change, step, check) if faults]
    figures(f"SIGKILL within {change}, control: halves at {halves}")
    assert halves
