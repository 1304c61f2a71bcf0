"""The check of closed data folders by check_files.py, in one process for all the tests of a process."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

PROGRAM = Path(__file__).with_name("check_files.py")
_asking = threading.Lock()


@cache
def _process() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.__exit__, None, None, None)  # it ends when its input does
    return process


def faults_of(data_dir: Path) -> list[str]:
    """A sentence for each thing that is wrong in the files of a folder that nobody has open."""
    with _asking:
        process = _process()
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(str(data_dir.absolute())), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())
