"""When Python looks for cyclic garbage among all objects."""

from __future__ import annotations

import subprocess
import sys

from takhin.garbage import EVERY_S_MAX, EVERY_S_MIN, LITTLE, next_every_s

IN_A_PROCESS = """
import asyncio, gc, sys, weakref
from takhin import garbage

class Node: pass

async def main():
    garbage.spare_old_objects()
    node = Node()
    node.self = node
    node.held = bytes(1) * (96 << 20)
    gc.collect(1)  # it is old now
    gone = asyncio.Event()
    weakref.finalize(node, gone.set)
    del node
    collecting = asyncio.create_task(garbage.collect()) if "collect" in sys.argv else None
    await asyncio.sleep(0)  # it has begun
    held = []
    for _ in range(300_000):  # Python would look at all of it meanwhile, by itself
        held.append([held])
    more = bytes(1) * (256 << 20)  # and the process grows
    try:
        await asyncio.wait_for(gone.wait(), 60 if collecting else 0.1)
    except TimeoutError:
        print("kept")
    else:
        print("collected")

asyncio.run(main())
"""

NEW_FOR_OLD = """
import asyncio, gc, sys, time
from takhin import garbage

async def main():
    held = [[number] for number in range(100_000)]
    garbage.spare_old_objects()
    looking = asyncio.create_task(garbage.look_at_young()) if "look" in sys.argv else None
    most = 0
    for number in range(len(held)):
        held[number] = [number]  # as many are freed as there are new ones
        if number % 1_000 == 0:
            await asyncio.sleep(0.02)
            most = max(most, len(gc.get_objects(generation=0)))
    print(most)

asyncio.run(main())
"""


def outcome(*arguments: str, program: str = IN_A_PROCESS) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_old_garbage_is_found_when_the_process_grows():
    """It is not looked for before; left alone it stays."""
    assert outcome() == "kept"
    assert outcome("collect") == "collected"


def test_it_is_looked_for_more_often_where_there_is_some():
    waits = [EVERY_S_MIN]
    while waits[-1] < EVERY_S_MAX:
        waits.append(next_every_s(waits[-1], LITTLE - 1))
    assert waits[:3] == [EVERY_S_MIN, 2 * EVERY_S_MIN, 4 * EVERY_S_MIN]
    assert next_every_s(EVERY_S_MAX, 0) == EVERY_S_MAX
    assert next_every_s(EVERY_S_MAX, LITTLE) == EVERY_S_MIN


def test_the_young_stay_few():
    """New objects in the place of old ones become many before Python looks at them by itself."""
    assert int(outcome(program=NEW_FOR_OLD)) > 50_000
    assert int(outcome("look", program=NEW_FOR_OLD)) < 20_000
