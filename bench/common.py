"""What all benches share: servers in processes of their own, payloads, figures, and the machine's name.

This module knows nothing of what is measured. The figures of one measurement are a dict from name to number;
the name ends in its unit: records_per_s, mb_per_s (10⁶ bytes), p50_ms, p99_ms, us_per_call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import apsw
import google.protobuf
import grpc

from takhin.disk import connection, versions

Figures = dict[str, float]

READY = re.compile(r"""( ready on |"address": ")(?P<address>[^\s",]+)""")
STOP_SECONDS_MAX = 30
SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
"""Values of PRAGMA synchronous, by number."""


# Payloads and figures


@dataclass(frozen=True, slots=True)
class Payload:
    """The keys and values of one batch, the same bytes in every run. size_bytes counts both."""

    keys: Sequence[bytes]
    values: Sequence[bytes]
    size_bytes: int

    def __len__(self) -> int:
        return len(self.values)


def payload(records: int, value_bytes: int) -> Payload:
    """Make values of `value_bytes` random bytes, which no system can compress, and keys of 10 bytes."""
    source = random.Random(records * value_bytes)
    keys = [b"key-%06d" % number for number in range(records)]
    values = [source.randbytes(value_bytes) for _ in range(records)]
    return Payload(keys, values, sum(map(len, keys)) + sum(map(len, values)))


def rate(seconds: float, records: int, size_bytes: int) -> Figures:
    """Throughput in records and megabytes a second."""
    return {"records_per_s": records / seconds, "mb_per_s": size_bytes / seconds / 1e6}


def latencies(seconds: Iterable[float]) -> Figures:
    """The median and the 99th percentile, in ms."""
    ordered = sorted(seconds)
    return {"p50_ms": percentile(ordered, 0.5) * 1e3, "p99_ms": percentile(ordered, 0.99) * 1e3}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the sorted values does not exceed (nearest rank)."""
    return ordered[round((len(ordered) - 1) * share)]


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over the runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


# Processes


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has printed its ready line. start_seconds: the time from its spawn to that line."""

    address: str
    pid: int
    start_seconds: float


@contextmanager
def server(command: Sequence[str]) -> Iterator[str]:
    """Run a server that prints a line with its address when it is ready; yields that, stops it afterwards."""
    with running(command) as process:
        yield process.address


@contextmanager
def running(command: Sequence[str], variables: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Like `server`, but yields the process as well. variables: added to its environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")}
    environment = inherited | dict(variables or {})
    began = time.perf_counter()
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
        ended(process),
    ):
        assert process.stdout is not None
        ready = READY.search(process.stdout.readline())
        if ready is None:
            raise SystemExit(f"no ready line from {' '.join(command)}")
        yield Running(ready["address"], process.pid, time.perf_counter() - began)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """End the process after the block: with SIGTERM, and with SIGKILL if that does not end it."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    """A port of the loopback that was free a moment ago, for servers that cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def broker(folder: Path, flags: Sequence[str] = ()) -> Iterator[str]:
    """Run a Takhin with an empty data folder below `folder`; yields its address.

    flags: those of `takhin serve`; settings that they do not name have their defaults.
    """
    with new_data_dir(folder) as data_dir, running(serve_command(data_dir, flags)) as process:
        yield process.address


@contextmanager
def new_data_dir(folder: Path) -> Iterator[Path]:
    """An empty data folder below `folder`, which is removed after the block."""
    with tempfile.TemporaryDirectory(prefix="takhin-", dir=folder) as data_dir:
        yield Path(data_dir)


def serve_command(
    data_dir: Path, flags: Sequence[str] = (), *, listen: str = "127.0.0.1:0", python: Sequence[str] = ()
) -> list[str]:
    """The command line of a Takhin on this data folder. python: flags of the interpreter."""
    serve = ("serve", "--data-dir", str(data_dir), "--listen", listen, "--log-level", "warning")
    return [sys.executable, *python, "-m", "takhin", *serve, *flags]


# What this was measured on


def durability(folder: Path) -> str:
    """The settings of the broker's own writing connection, read back from a connection to a scratch file."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch, "scratch.db")
        versions.build(path)
        writer = connection.open_writer(path)
        try:
            mode, synchronous = writer.pragma("journal_mode"), writer.pragma("synchronous")
        finally:
            writer.close()
    return f"SQLite journal_mode={mode.upper()} synchronous={SYNCHRONOUS[synchronous]}"


def say_durability(folder: Path) -> str:
    """Print what an acknowledgement means, and return it."""
    held = durability(folder)
    print(
        f"acknowledged when durable: {held}, read back from a connection as the broker opens it", flush=True
    )
    return held


def machine(folder: Path) -> dict[str, str]:
    """A description of the machine, the versions, and the disk under `folder`, for people."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _gib(_field(Path("/proc/meminfo"), "MemTotal")),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "protobuf": google.protobuf.__version__,
        "apsw": apsw.apsw_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "disk": f"{file_system(folder)}, fdatasync {_fdatasync_ms(folder):.2f} ms",
        "load": f"{os.getloadavg()[0]:.1f} when begun",
    }


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`: ext4, tmpfs, …"""
    resolved = folder.resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(point, kind) for point, kind in mounts if resolved.is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def _field(path: Path, name: str) -> str:
    """The value of the first `name: value` line."""
    found = re.search(rf"^{name}\s*:\s*(.*)$", path.read_text(), re.MULTILINE)
    return found[1] if found else ""


def _gib(text: str) -> str:
    return f"{int(text.split(maxsplit=1)[0]) / 2**20:.1f} GiB"


def _fdatasync_ms(folder: Path, count: int = 100) -> float:
    """The median time of appending 4 KiB durably, without any system under test."""
    seconds = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(count):
            began = time.perf_counter()
            os.write(file.fileno(), bytes(4_096))
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return latencies(seconds)["p50_ms"]


# Programs


def arguments(
    program: str, *, repeat: str = "", times: int = 5, scale: bool = True
) -> argparse.ArgumentParser:
    """A parser with the options that all bench programs have.

    repeat: what --repeat counts, and `times` its default; empty for a program that does everything once.
    scale: True if the program has --scale.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{program}", description=sys.modules["__main__"].__doc__
    )
    if repeat:
        parser.add_argument(
            "--repeat", type=int, default=times, metavar="N", help=f"{repeat}; medians are shown [{times}]"
        )
    if scale:
        parser.add_argument(
            "--scale", type=float, default=1.0, metavar="X", help="multiply the amount of work by this [1]"
        )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="make data folders here, on the disk to be measured [%(default)s]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    return parser


def begin(options: argparse.Namespace) -> dict[str, str]:
    """Print what the benchmark runs on; warn if the figures would say nothing about a disk.

    From here on SIGTERM ends the program as Ctrl-C does: its servers are stopped and its folders removed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = machine(options.folder)
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    if file_system(options.folder) in ("tmpfs", "ramfs"):
        print(
            f"warning: {options.folder} is in memory; name a folder on a disk with --folder", file=sys.stderr
        )
    return about


def can_draw() -> bool:
    """True if a chart can be drawn here; otherwise prints what is missing."""
    if find_spec("matplotlib") is None:
        print("no chart: Python lacks matplotlib (pip install -e '.[bench]')", file=sys.stderr)
        return False
    return True


def write_json(path: Path, document: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
