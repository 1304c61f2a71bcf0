"""The machine around a broker: limits of its process, memory, clock, libraries, the temporary folder."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from takhin.disk import descriptors
from takhin.disk.connection import check_library, library_version
from takhin.disk.native import ADVICE, load
from takhin.doctor.findings import Finding, Level, gb
from takhin.errors import StartupError
from takhin.listening import trouble
from takhin.native import NativeMissingError, NativeUnusableError
from takhin.sentences import listed
from takhin.settings import Settings
from takhin.settings.security import UNIX, listen_address

PROC = Path("/proc")
CGROUP_MEMORY = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""What a container may use; "max" or an enormous number where nobody has said."""
PROCESS_BYTES = 100 << 20
"""What a broker takes that has nothing to do."""
TEMPORARY_FOLDERS = ("/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108  nothing is written there

UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2): no time service keeps the clock in step."""
TIMEX_BYTES, TIMEX_STATUS = 512, struct.calcsize("@iqqqq")
"""More than struct timex has on any Linux, and where its status is on those with 64 bits."""


def limits(settings: Settings, pid: int | None) -> Iterator[Finding]:
    """How many files may be open. pid: the running broker's, whose limits count then."""
    needed = descriptors.needed(
        connections=settings.rpc.connections_max * len(settings.listen),
        open_partitions=settings.storage.open_partitions_max,
    )
    limit, whose = _descriptors(pid)
    what = f"{whose} may open {limit} files, and needs {needed} at most"
    if limit >= needed:
        yield Finding(Level.OK, "limits", what)
    else:
        do = "raise the hard limit (LimitNOFILE= of the service, `ulimit -Hn`), or lower rpc.connections_max "
        do += "or storage.open_partitions_max"
        yield Finding(Level.WARN, "limits", what, do)
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if largest != resource.RLIM_INFINITY:
        what = f"no file may be larger than {gb(largest)}"
        yield Finding(Level.WARN, "limits", what, "start the broker without that limit (`ulimit -f`)")


def addresses(settings: Settings, *, running: bool) -> Iterator[Finding]:
    """Whether the broker can listen where it is to. running: it does, so its ports are rightly taken."""
    if running:
        return
    places = [("listen", address) for address in map(listen_address, settings.listen) if address.kind != UNIX]
    if settings.metrics.listen:
        places.append(("metrics.listen", listen_address(settings.metrics.listen)))
    well = []
    for name, address in places:
        if (why := trouble(address.host, address.port)) is None:
            well.append(str(address))
            continue
        do = f"end what listens there, or set {name} to another address"
        yield Finding(Level.BAD, "address", f"no broker can listen on {address}: {why}", do)
    if well:
        yield Finding(Level.OK, "address", f"a broker can listen on {listed(well, 'and')}")


def _descriptors(pid: int | None) -> tuple[int, str]:
    """(the limit that counts, whose it is). A broker that is about to start takes its hard limit itself."""
    if pid is not None:
        try:
            found = re.search(r"^Max open files +(\d+)", (PROC / f"{pid}/limits").read_text(), re.MULTILINE)
        except OSError:  # another user's, or in another container
            found = None
        if found is not None:
            return int(found[1]), f"the broker (pid {pid})"
    return descriptors.raise_limit(), "a broker that is started from here"


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether what the settings allow fits into the memory."""
    storage, rpc = settings.storage, settings.rpc
    allowed = (
        PROCESS_BYTES
        + storage.queue_bytes_max
        + storage.page_cache_bytes_max
        + storage.compaction_bytes_max
        + settings.consume.shared_bytes_max
        + settings.groups.commit_bytes_max
        + rpc.arrivals_max * rpc.message_bytes_max
    )
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CGROUP_MEMORY:
        if path.exists() and (limit := path.read_text().strip()).isdecimal():
            there = min(there, int(limit))
    what = f"{gb(there)} of memory, of which the settings allow a broker {gb(allowed)}"
    if allowed <= there:
        yield Finding(Level.OK, "memory", what)
    else:
        do = "lower storage.queue_bytes_max, storage.page_cache_bytes_max and their like, or add memory"
        yield Finding(Level.WARN, "memory", what, do)


def clock(newest: tuple[float, Path] | None) -> Iterator[Finding]:
    """Whether the clock can be right. newest: when a file of the folder was last changed (s), and which."""
    now = time.time()
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if newest is not None and newest[0] > now + 5:
        what = f"it is {shown}, and {newest[1]} was changed {newest[0] - now:,.0f} s after that"
        do = "the clock has gone back: set it right before the broker gives records their times; retention "
        do += "goes by them"
        yield Finding(Level.BAD, "clock", what, do)
    elif now < Path(__file__).stat().st_mtime - 86_400:
        what = f"it is {shown}, before this program was installed"
        yield Finding(Level.BAD, "clock", what, "set the clock, and let a time service keep it")
    elif _unsynchronised():
        what = f"it is {shown}, and no time service keeps the clock in step"
        do = "run one (chrony, systemd-timesyncd): records without a time of their own get the machine's"
        yield Finding(Level.WARN, "clock", what, do)
    else:
        yield Finding(Level.OK, "clock", f"it is {shown}")


def _unsynchronised() -> bool:
    """True if the kernel says that nobody keeps its clock. False also where it cannot be asked."""
    timex = ctypes.create_string_buffer(TIMEX_BYTES)  # modes 0: nothing is set
    try:
        if sys.maxsize < 1 << 32 or ctypes.CDLL(None).adjtimex(timex) < 0:
            return False
    except (AttributeError, OSError):
        return False
    status: int = struct.unpack_from("@i", timex, TIMEX_STATUS)[0]
    return bool(status & UNSYNCHRONISED)


def libraries() -> Iterator[Finding]:
    """Python, SQLite and the system."""
    what = f"SQLite {library_version()}, Python {platform.python_version()}, {platform.system()} "
    what += f"{platform.release()}, {os.cpu_count()} processors"
    try:
        check_library()
    except StartupError as error:
        yield Finding(Level.BAD, "libraries", str(error), "install what constraints.txt names")
    else:
        yield Finding(Level.OK, "libraries", what)


def native_library(settings: Settings) -> Iterator[Finding]:
    """Whether records are stored and read in C."""
    setting = settings.storage.native
    if setting == "off":
        yield Finding(Level.OK, "native library", "storage.native is off: records go through Python")
        return
    try:
        what = f"records are stored and read in C, by {load().path}"
    except NativeMissingError as error:
        unusable = isinstance(error, NativeUnusableError)
        what = "there is none" + (" that can be used" if unusable else "")
        what += f", so records go through Python, which is slower: {error}"
        if setting == "on":
            yield Finding(Level.BAD, "native library", f"storage.native is on, but {what}", ADVICE)
            return
        if unusable:
            yield Finding(Level.WARN, "native library", what, ADVICE)
            return
    yield Finding(Level.OK, "native library", what)


def temporary_folder(settings: Settings) -> Iterator[Finding]:
    """Compactions of many keys write a temporary file. Raises OSError."""
    do = "compactions of many keys wait for room there: free some, or set TMPDIR for the broker"
    folder = next((each for each in _temporary_folders() if os.access(each, os.W_OK | os.X_OK)), None)
    if folder is None:
        yield Finding(Level.WARN, "temporary folder", "there is none that can be written to", do)
        return
    system = os.statvfs(folder)
    free = system.f_bavail * system.f_frsize
    what = f"{gb(free)} are free in {folder}"
    if free < settings.storage.compaction_bytes_max:
        yield Finding(Level.WARN, "temporary folder", what, do)
    else:
        yield Finding(Level.OK, "temporary folder", what)


def _temporary_folders() -> Iterator[str]:
    """Where SQLite looks for one, in its order (sqlite.org/tempfiles.html, 5)."""
    yield from (os.environ[name] for name in ("SQLITE_TMPDIR", "TMPDIR") if name in os.environ)
    yield from TEMPORARY_FOLDERS
