"""Crash images: whatever a power cut leaves of the storage's writes, nothing acknowledged is missing.

A child process records the events of an engine at work (recorder.py, crash_workload.py), crash_images.py
makes the states that a power cut may leave of them, and an engine is started on each (crash_check.py).
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from faults.crash_check import Facts, faults_of
from faults.crash_images import Disk, write_image

WORKLOAD = Path(__file__).with_name("crash_workload.py")
IMAGES = 100
IMAGES_SOAK, IMAGES_OF_A_WORKLOAD, PARTS = 50_000, 1_000, 2
CONTROL_IMAGES = 30
SOAK_S_MAX = 1_800
"""The time after which each part of the full count ends, and says how far it came."""


def recorded(memory: Path, seed: int, synchronous: str = "2"):
    """The events of one workload."""
    data, out = memory / "recorded", memory / "events"
    subprocess.run(
        [sys.executable, WORKLOAD, data, str(seed), synchronous, out], env=environment(), check=True
    )
    events = pickle.loads(out.read_bytes())
    shutil.rmtree(data)
    out.unlink()
    return events


def environment():
    tests = WORKLOAD.parents[1]
    return os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}


async def faults_of_images(memory: Path, events, count: int, seed: int):
    """(events before the cut, faults) of each image that has faults."""
    chance = random.Random(seed)
    cuts = sorted(chance.randrange(len(events) + 1) for _ in range(count))
    disk, facts, at, found = Disk(), Facts(), 0, []
    for number, cut in enumerate(cuts):
        for event in events[at:cut]:
            if event.kind == "note":
                facts.after(event.data)
            disk.after(event)
        at = cut
        image = memory / f"image-{number}"
        write_image(disk, image, chance)
        faults = await faults_of(image, facts)
        if faults:
            found.append((cut, faults))
        shutil.rmtree(image)
    return found


FULL = [pytest.mark.soak, pytest.mark.timeout(2 * SOAK_S_MAX)]


@pytest.mark.parametrize(
    ("images", "of_a_workload"),
    [
        (IMAGES, IMAGES),
        *[pytest.param(IMAGES_SOAK // PARTS, IMAGES_OF_A_WORKLOAD, marks=FULL) for _ in range(PARTS)],
    ],
)
async def test_no_image_lacks_what_was_acknowledged(memory, images, of_a_workload, figures):
    """Everything acknowledged is there, batches and topics whole or not at all, and every start succeeds."""
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    began, done, events_in_all = time.monotonic(), 0, 0
    while done < images and time.monotonic() - began < SOAK_S_MAX:
        print(f"CRASH_SEED={seed}")
        events = recorded(memory, seed)
        assert await faults_of_images(memory, events, of_a_workload, seed) == []
        done += of_a_workload
        events_in_all += len(events)
        seed += 1
    took = time.monotonic() - began
    figures(f"crash images: {done} images of {events_in_all} events, 0 with anything lost, {took:.0f} s")


@pytest.mark.control
@pytest.mark.parametrize("weakness", ["1", "0", "names", "apart"])
async def test_a_weakness_is_seen(memory, weakness, figures):
    """Control: images reveal a missing sync, and a producer's batch remembered in its own transaction."""
    events = recorded(memory, 1, weakness)
    found = await faults_of_images(memory, events, CONTROL_IMAGES, 1)
    kinds = Counter(kind_of(faults[0]) for _, faults in found)
    figures(f"crash images, control {weakness}: {len(found)} of {CONTROL_IMAGES} bad: {dict(kinds)}")
    assert len(found) > 1


def kind_of(fault: str) -> str:
    if "sent again" in fault:
        return "doubled"
    return "refused" if fault.startswith("refused") else "lost"
