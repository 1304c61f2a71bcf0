"""Members and broker are killed and paused: each record is processed, by one owner at a time.

Members write down what happens to them (history_member.py), and histories.py looks for Jepsen's anomalies.
The control is a broker that takes every commit.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from statistics import median

import pytest

import forked
from blackbox.broker_process import Broker
from groups.histories import Stop, faults, hand_overs, interrupted
from takhin.client import Admin, Producer, Retry

PROGRAM = Path(__file__).with_name("history_member.py")
CARELESS = Path(__file__).with_name("careless_groups.py")
CARELESS_RUNS_MAX = 4
GROUP, TOPIC, PARTITIONS, MEMBERS = "g", "t", 12, 6
ACTIONS = {"kill": 1, "pause": 2, "leave": 1, "broker": 1}
"""What is done in a run, and how often beside the others."""
SESSION_MS, STOPPED_S = 2_000, 4.0
RETRY = Retry(wait_ms_max=200)
SETTLE_S_MAX = 60.0
BROKER = {"groups_rejoin_ms": 3_000}


class Members:
    """The processes of a group, and what was done to them."""

    def __init__(self, server: str, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._all: dict[str, subprocess.Popen[bytes]] = {}
        self.stops: dict[str, list[Stop]] = {}

    def start(self) -> None:
        name = f"m{len(self._all)}"
        command = [sys.executable, PROGRAM, self._server, GROUP, TOPIC, self._file(name), str(SESSION_MS)]
        with self._said(name).open("wb") as said:
            self._all[name] = forked.Popen(command, stderr=said)
        self.stops[name] = []

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"

    def _said(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    @property
    def running(self) -> list[str]:
        return [name for name, process in self._all.items() if process.poll() is None]

    def kill(self, name: str) -> None:
        self.stops[name].append(Stop(time.monotonic(), inf))
        self._all[name].send_signal(SIGKILL)
        self._all[name].wait()

    async def pause(self, name: str, seconds: float) -> None:
        """Let it sleep past its session, and wake as a zombie."""
        since = time.monotonic()
        self._all[name].send_signal(SIGSTOP)
        await asyncio.sleep(seconds)
        self.stops[name].append(Stop(since, time.monotonic() + SESSION_MS / 1_000))
        self._all[name].send_signal(SIGCONT)

    def leave(self, name: str) -> None:
        """Let it leave in order."""
        self._all[name].send_signal(SIGTERM)

    def end(self) -> None:
        """Let those that run leave in order."""
        for name in self.running:
            self.leave(name)
        for name, process in self._all.items():
            code, said = process.wait(30), self._said(name).read_text()
            assert code in (0, -SIGKILL, -SIGTERM), said  # the last one: before it was ready for it
            assert "Traceback" not in said, said

    def abandon(self) -> None:
        """Leave no process behind, however the test has ended."""
        for process in self._all.values():
            process.kill()
            process.wait()

    def histories(self) -> Iterator[tuple[str, list[dict]]]:
        for name in self._all:
            if self._file(name).exists():
                lines = self._file(name).read_bytes().splitlines()
                yield (
                    name,
                    [json.loads(line) for line in lines if line.endswith(b"}")],
                )  # one may be cut by a kill


async def produce(server: str, acknowledged: list[str], stopping: asyncio.Event, pause_s: float) -> None:
    """Send records until told to stop; those that were answered are noted."""
    async with Producer(server, retry=RETRY) as producer:
        number = 0
        while not stopping.is_set():
            sent = {}
            for _ in range(20):
                sent[f"v{number}"] = await producer.send(
                    TOPIC, b"v%d" % number, partition=number % PARTITIONS
                )
                number += 1
            for value, delivery in sent.items():
                await delivery
                acknowledged.append(value)
            await asyncio.sleep(pause_s)


async def watch_commits(admin: Admin, stopping: asyncio.Event) -> list[str]:
    """Look at what the group has committed, again and again: it must never go back."""
    before: dict[object, int] = {}
    found = []
    while not stopping.is_set():
        now = {at: committed.offset for at, committed in (await admin.committed_offsets(GROUP)).items()}
        found += [
            f"{at} went back from {before[at]} to {now[at]}" for at in before if now.get(at, -1) < before[at]
        ]
        before = now
        await asyncio.sleep(0.02)
    return found


async def begun(admin: Admin) -> None:
    """Return when the group has committed something everywhere: by that a broker that starts knows it."""
    async with asyncio.timeout(SETTLE_S_MAX):
        while True:
            if len(await admin.committed_offsets(GROUP)) == PARTITIONS:
                return
            await asyncio.sleep(0.05)


async def all_committed(admin: Admin, seconds_max: float) -> None:
    """Return when the group has committed all that there is."""
    async with asyncio.timeout(seconds_max):
        while True:
            with suppress(Exception):
                offsets = (await admin.describe_group(GROUP)).offsets
                if len(offsets) == PARTITIONS and not sum(each.lag for each in offsets):
                    return
            await asyncio.sleep(0.1)


@dataclass
class Run:
    """What was wrong in a run, and what was done in it."""

    faults: list[str]
    records: int
    histories: dict[str, list[dict]]
    done: Counter[str]

    def __str__(self) -> str:
        done = ", ".join(f"{count} x {what}" for what, count in self.done.items())
        return f"{self.records} records, {len(self.histories)} members, {done}"


async def run(
    folder: Path,
    seconds: float,
    seed: int,
    *,
    actions: Mapping[str, int] = ACTIONS,
    every_s: tuple[float, float] = (0.5, 2.0),
    pause_s: float = 0.04,
    program: Sequence[object] = (),
) -> Run:
    """Work for a while as a group under kills and pauses.

    every_s: between two actions, at random. pause_s: between twenty records and the next ones.
    """
    chance, stopping = random.Random(seed), asyncio.Event()
    acknowledged: list[str] = []
    done: Counter[str] = Counter()
    with ExitStack() as ending:
        broker = ending.enter_context(closing(Broker(folder / "data", program=program, **BROKER)))
        members = Members(broker.address, folder)
        ending.callback(members.abandon)
        async with Admin(broker.address, retry=RETRY) as admin:
            await admin.create_topic(TOPIC, partitions=PARTITIONS)
            tasks = [
                asyncio.create_task(produce(broker.address, acknowledged, stopping, pause_s)),
                asyncio.create_task(watch_commits(admin, stopping)),
            ]
            for _ in range(MEMBERS):
                members.start()
            await begun(admin)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await asyncio.sleep(chance.uniform(*every_s))
                (what,) = chance.choices(list(actions), list(actions.values()))
                done[what] += 1
                if what == "broker":
                    broker.kill()
                    again = Broker(folder / "data", listen=broker.address, program=program, **BROKER)
                    broker = ending.enter_context(closing(again))
                    continue
                victim = chance.choice(members.running)
                if what == "pause":
                    await members.pause(victim, STOPPED_S)
                    continue
                members.kill(victim) if what == "kill" else members.leave(victim)
                members.start()
            stopping.set()
            _, gone_back = await asyncio.gather(*tasks)
            with suppress(TimeoutError) if program else nullcontext():  # the last commit may be a zombie's
                await all_committed(admin, SETTLE_S_MAX if not program else 3.0)
            await asyncio.to_thread(members.end)
        histories = dict(members.histories())
        found = gone_back + faults(acknowledged, histories, members.stops)
        assert broker.stop() == 0
    return Run(found, len(acknowledged), histories, done)


@pytest.mark.parametrize(
    ("seconds", "seed"),
    [
        (7, 1),
        *(
            pytest.param(1_800, seed, marks=[pytest.mark.soak, pytest.mark.timeout(2_400)])
            for seed in range(5)
        ),
    ],
)
async def test_a_group_under_kills_and_pauses(tmp_path, seconds, seed, figures):
    """No anomaly: every acknowledged record is polled in order by one owner at a time, no commit is stale."""
    made = await run(tmp_path, seconds, seed)
    assert made.faults == []
    figures(f"group histories: {made}, 0 anomalies")


@pytest.mark.soak
@pytest.mark.timeout(2_400)
async def test_zombies(tmp_path, figures):
    """Members that sleep past their session and wake, 200 times: none commits what is another's by then."""
    made = await run(tmp_path, 200 * (STOPPED_S + 0.3), 5, actions={"pause": 1}, every_s=(0.1, 0.5))
    assert made.faults == []
    figures(f"zombies: {made}, 0 stale commits")


@pytest.mark.control
async def test_without_fences_it_is_seen(tmp_path, figures):
    """Control: a broker that takes every commit shows stale ones, or ones that go back, within some runs."""
    zombies = {"actions": {"pause": 1}, "every_s": (0.2, 0.6), "pause_s": 0.01}
    seen = False
    for seed in range(3, 3 + CARELESS_RUNS_MAX):
        folder = tmp_path / str(seed)
        folder.mkdir()
        made = await run(folder, 12, seed, program=(sys.executable, CARELESS), **zombies)
        figures(f"group histories without fences: {made}, {len(made.faults)} anomalies")
        seen = any("stale commit" in fault or "went back" in fault for fault in made.faults)
        if seen:
            break
    assert seen


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(600, marks=[pytest.mark.soak, pytest.mark.timeout(1_200)])]
)
async def test_hand_overs(tmp_path, seconds, figures):
    """A partition that moves in order pauses for a moment; one whose owner was killed, until it is missed.

    Nobody gives up what it gets back. How long the pauses are is a bound in the long run alone.
    """
    made = await run(tmp_path, seconds, 7, actions={"kill": 1, "leave": 1}, every_s=(2.0, 4.0))
    assert made.faults == []
    assert interrupted(made.histories) == []
    killed = {name for name, events in made.histories.items() if events and events[-1]["what"] != "left"}
    ordered, after_kills = [], []
    for each in hand_overs(made.histories):
        (after_kills if each.former in killed else ordered).append(each.seconds)
    told = f"{made}; in order {shares(ordered)}; after kills {shares(after_kills)}"
    figures(f"hand-overs: {told}")
    if seconds > 60:
        assert median(ordered) <= 0.2
        assert quantile(ordered, 0.99) <= 1.0
        assert max(after_kills) <= BROKER["groups_rejoin_ms"] / 1_000 + 1


def quantile(seconds, share):
    return sorted(seconds)[int(share * (len(seconds) - 1))]


def shares(seconds):
    if not seconds:
        return "none"
    ms = [1_000 * quantile(seconds, share) for share in (0.5, 0.99, 1)]
    return f"{len(seconds)}, median {ms[0]:.0f} ms, 99 % {ms[1]:.0f} ms, longest {ms[2]:.0f} ms"


def history(*events):
    """Events of one member, a second apart."""
    return [{"at": float(at), "what": what} | more for at, (what, more) in enumerate(events)]


ASSIGNED = ("assigned", {"partitions": [0]})
REVOKED = ("revoked", {"partitions": [0]})


def polled(first, *values):
    return "poll", {"partition": 0, "first": first, "values": values}


def test_the_checker_sees_each_anomaly():
    """Histories that are right have no faults, and each kind of anomaly is found where it is."""
    right = {"a": history(ASSIGNED, polled(0, "x", "y"), polled(2, "z"), REVOKED)}
    assert faults("xyz", right, {}) == []
    assert "lost write" in faults("xyzw", right, {})[0]
    assert "skipped" in faults("", {"a": history(ASSIGNED, polled(0, "x"), polled(2, "z"))}, {})[0]
    assert "duplicate" in faults("", {"a": history(ASSIGNED, polled(0, "x"), polled(0, "x"))}, {})[0]
    two = {"a": history(ASSIGNED, polled(0, "x"), REVOKED), "b": history(("wait", {}), ASSIGNED)}
    assert "two owners" in faults("", two, {})[0]
    assert faults("", two, {"a": [Stop(0.5, inf)]}) == []
    other = {"b": [event | {"at": event["at"] + 9} for event in history(ASSIGNED, polled(0, "q"))]}
    assert "inconsistent" in faults("", right | other, {})[0]
    late = ("committed", {"partition": 0, "offset": 1, "begun": 11.0})
    stale = history(ASSIGNED, late)
    assert "stale commit" in faults("", {"a": stale} | other, {"a": [Stop(2.0, 20.0)]})[0]
