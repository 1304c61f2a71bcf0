"""A broker in a process of its own, run as people run it.

This file owns the command line, the ready line, signals and exit codes. It knows none of the broker's code.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM, Signals
from subprocess import PIPE
from typing import Self

import forked
from lending import lend_template
from storage import checker

READY = re.compile(
    r"takhin (?P<version>\S+) ready on (?P<address>\S+:\d+), data in (?P<data_dir>.+), "
    r"(?P<topics>\d+) topics? \(SQLite (?P<sqlite>\S+), gRPC (?P<grpc>\S+), Python (?P<python>\S+), "
    r"(?P<native>records in C|records in Python)\)\n"
)
"""The ready line where the log is for people. Elsewhere it is JSON with the same facts under these names."""
READY_WAIT_S_MAX = 20.0


def environment(**settings: object) -> dict[str, str]:
    """The environment for a broker: the current one, in which `settings` are the only variables TAKHIN_….

    settings: keys are the names of environment variables in lower case: consume_heartbeat_ms=100.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")}
    return inherited | {f"TAKHIN_{name.upper()}": str(value) for name, value in settings.items()}


def command(*args: object) -> list[str]:
    """The command `takhin ARGS`, run by the interpreter that runs the tests."""
    return [sys.executable, "-m", "takhin", *map(str, args)]


class Broker:
    """A serving broker. `with Broker(folder) as broker` stops it at the end if it still runs.

    It must exit cleanly then, and must not have logged an exception.

    listen: addresses with commas; port 0 takes a free one, which `addresses` then has. `address` is the
    HOST:PORT of the first one that has a port.
    program: what to run instead of `takhin`.
    lent: it is given the template of a partition file (see lending.py) and does not build its own.
    settings: as in `environment`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        listen: str = "127.0.0.1:0",
        program: Sequence[object] = (),
        lent: bool = True,
        **settings: object,
    ) -> None:
        self.data_dir = data_dir
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process = forked.Popen(
            [*(program or command()), "serve", "--data-dir", str(data_dir), "--listen", listen],
            stdout=PIPE,
            stderr=self._log,
            env=environment(**settings),
        )
        try:
            self.ready = self._wait_until_ready()
            if lent and (data_dir / "tmp").is_dir():
                lend_template(data_dir)
        except BaseException:
            self.close()
            raise
        self.address: str = self.ready["address"]
        self.addresses: list[str] = self.ready.get("addresses", "").split()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def partition_file(self, topic: str, partition: int = 0) -> Path:
        return self.data_dir / "topics" / topic / f"{partition}.db"

    def log(self) -> str:
        """What the broker has written to stderr so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode()

    def send_signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds_max: float) -> int:
        """Wait for the exit code; raises subprocess.TimeoutExpired if that takes longer."""
        return self._process.wait(seconds_max)

    def stop(self, number: Signals = SIGTERM, *, seconds_max: float = 15.0) -> int:
        self.send_signal(number)
        return self.wait(seconds_max)

    def kill(self) -> None:
        """End it with SIGKILL: none of its own code runs any more."""
        self._process.kill()
        self._process.wait()

    def more_output(self) -> str:
        """What an ended broker wrote to stdout after the ready line."""
        return self._stdout.read().decode()

    def close(self) -> None:
        if self.running:
            self.kill()
        self._stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *exc: object) -> None:
        try:
            if failure is None:
                assert not self.running or self.stop() == 0
                assert "Traceback" not in self.log()
        finally:
            print(f"the broker's log:\n{self.log()}")  # pytest shows it if the test fails
            self.close()

    @property
    def _stdout(self):
        assert self._process.stdout is not None
        return self._process.stdout

    def _wait_until_ready(self) -> dict[str, str]:
        deadline = time.monotonic() + READY_WAIT_S_MAX
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise AssertionError(f"not ready after {READY_WAIT_S_MAX} s: {line!r}\n{self.log()}")
            piece = os.read(self._stdout.fileno(), 4_096)
            if not piece:
                raise AssertionError(f"ended with {self.wait(5)} before it was ready\n{self.log()}")
            line += piece
        if line.startswith(b"{"):
            event = json.loads(line)
            assert event.pop("event") == "ready"
            event["addresses"] = " ".join(event["addresses"])
            return {name: str(value) for name, value in event.items()}
        ready = READY.fullmatch(line.decode())
        assert ready is not None, f"not the ready line: {line!r}"
        return ready.groupdict()


def resident_bytes(broker: Broker, field: str = "VmRSS") -> int:
    """The broker's memory now; with VmHWM the most that it ever had."""
    status = Path(f"/proc/{broker.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1_024


@contextmanager
def looked_over(folder: Path) -> Iterator[Path]:
    """A data folder whose files are checked after the block; its last broker must have exited cleanly."""
    yield folder
    if (folder / "topics").is_dir():
        found = checker.faults_of(folder)
        assert not found, "\n".join(found)
