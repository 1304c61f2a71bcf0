"""Other programs, run beside the event loop.

By `subprocess` in a thread, not by asyncio: uvloop forks, and once Python's clean-up in the child, a copy of
a process with many threads, went on for ever.
"""

from __future__ import annotations

import asyncio
import subprocess
from subprocess import PIPE


async def run(*line: object, check: bool = True, **options: object) -> bytes:
    """Run a program to its end; return what it has printed."""
    done = await asyncio.to_thread(subprocess.run, line, check=check, **{"stdout": PIPE} | options)
    return done.stdout or b""
