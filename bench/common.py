"""What all benches share: servers in processes of their own, payloads, figures, and what machine this is.

Knows nothing of what is measured. Figures of one measurement are a dict from name to number; the name
ends in its unit: records_per_s, mb_per_s (10⁶ bytes), p50_ms, p99_ms, us_per_call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
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
from pathlib import Path

import apsw
import google.protobuf
import grpc

from takhin.storage import connection

Figures = dict[str, float]

READY = re.compile(r"ready on (?P<address>\S+:\d+)")
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
    """Values of `value_bytes` random bytes, which no system can make smaller, and keys of 10 bytes."""
    source = random.Random(records * value_bytes)
    keys = [b"key-%06d" % number for number in range(records)]
    values = [source.randbytes(value_bytes) for _ in range(records)]
    return Payload(keys, values, sum(map(len, keys)) + sum(map(len, values)))


def rate(seconds: float, records: int, size_bytes: int) -> Figures:
    """Throughput."""
    return {"records_per_s": records / seconds, "mb_per_s": size_bytes / seconds / 1e6}


def latencies(seconds: Iterable[float]) -> Figures:
    """The median and the 99th percentile (nearest rank)."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {"p50_ms": ordered[round(last * 0.5)] * 1e3, "p99_ms": ordered[round(last * 0.99)] * 1e3}


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over the runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


# Processes


@contextmanager
def server(command: Sequence[str]) -> Iterator[str]:
    """Run a server that prints one line with "ready on HOST:PORT"; gives that address, stops it after."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=inherited) as process,
        ended(process),
    ):
        assert process.stdout is not None
        ready = READY.search(process.stdout.readline())
        if ready is None:
            raise SystemExit(f"no ready line from {' '.join(command)}")
        yield ready["address"]


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends the process after the block: SIGTERM, and SIGKILL if that does not do."""
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
    """A Takhin of its own with an empty data folder below `folder`; gives its address.

    flags: of `takhin serve`, after which all settings not named are at their defaults.
    """
    with tempfile.TemporaryDirectory(prefix="takhin-", dir=folder) as data_dir:
        address = ("--data-dir", data_dir, "--listen", "127.0.0.1:0")
        with server(
            [sys.executable, "-m", "takhin", "serve", *address, "--log-level", "warning", *flags]
        ) as at:
            yield at


# What this was measured on


def durability(folder: Path) -> str:
    """The settings of the broker's own writing connection, read back from one on a scratch file."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch, "scratch.db")
        path.touch()
        writer = connection.open_writer(path)
        try:
            mode, synchronous = writer.pragma("journal_mode"), writer.pragma("synchronous")
        finally:
            writer.close()
    return f"SQLite journal_mode={mode.upper()} synchronous={SYNCHRONOUS[synchronous]}"


def machine(folder: Path) -> dict[str, str]:
    """The machine, the versions, and the disk under `folder`, for people."""
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
    """What it takes to append 4 KiB durably: the median, without any system under test."""
    seconds = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(count):
            began = time.perf_counter()
            os.write(file.fileno(), bytes(4_096))
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return latencies(seconds)["p50_ms"]


# Programs


def arguments(program: str, *, repeat: str) -> argparse.ArgumentParser:
    """A parser with the options that every bench program has. repeat: what --repeat counts."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{program}", description=sys.modules["__main__"].__doc__
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help=f"{repeat}; medians are shown [5]")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="times the amount of work [1]")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where data folders are made: on the disk to be measured [%(default)s]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    return parser


def begin(options: argparse.Namespace) -> dict[str, str]:
    """Say what this is measured on; warns where the figures would say nothing about a disk."""
    about = machine(options.folder)
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    if file_system(options.folder) in ("tmpfs", "ramfs"):
        print(
            f"warning: {options.folder} is in memory; name a folder on a disk with --folder", file=sys.stderr
        )
    return about


def write_json(path: Path, document: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
