"""What watches the memory goes on, whatever the system lacks."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from takhin.memory import LOOK_SECONDS, WORTH_BYTES, FreeMemory
from takhin.turns import others_turn


async def test_no_thread_to_give_memory_back():
    """Where none can be started, it tries again when the process has grown once more."""
    without = ThreadPoolExecutor(1)
    without.shutdown()
    asyncio.get_running_loop().set_default_executor(without)
    freeing = FreeMemory()
    await freeing.start()
    if freeing._task is None:
        pytest.skip("there is no glibc")
    await others_turn()  # it looks at what there is
    grown = b"x" * (2 * WORTH_BYTES)  # written to, so it counts
    ended, _ = await asyncio.wait({freeing._task}, timeout=4 * LOOK_SECONDS)
    assert not ended
    assert len(grown) == 2 * WORTH_BYTES
    await freeing.stop(0)
