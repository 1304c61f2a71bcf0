"""Python programs in processes that are forked from one that has imported everything, instead of started.

The tests run a thousand brokers and commands, and most of what each costs is Python's own start and the
import of gRPC. `Popen` and `run` are those of `subprocess`, for a line that begins with `sys.executable`.
The program gets its arguments, environment, folder, umask and streams as ever, is a child of this process,
and ends as any program does. What only a real start can show is lost: which modules it imports by itself,
and what the variables do that Python and gRPC read at their start (with others of those it is started).
With REAL_PROCESSES in the environment, as in `make soak`, nothing is forked.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from takhin.cli.main import COMMANDS

READ_AT_THE_START = ("GRPC_", "LANG", "LC_", "LD_", "MALLOC_", "PYTHON")
"""How variables begin that are read when a process starts or imports, and not again."""

SERVE = (
    "takhin.cli.main",
    "takhin.cli.serve",
    "takhin.process",
    "grpc_health.v1.health",
    "grpc_reflection.v1alpha.reflection",
)
OTHERS = ("takhin.cli.main", *(f"takhin.cli.{name}" for name in COMMANDS))
SQLITE = ("takhin.schema.migrations", "sqlite3", "apsw")
"""What is imported for brokers, for other commands, and for programs with Python's SQLite: no broker's."""
OF_SQLITE = re.compile(r"takhin\.schema|sqlite3")

SERVER = Path(__file__).with_name("fork_server.py")
STATUS = Path("/proc/self/status")
PR_SET_CHILD_SUBREAPER = 36


def read_at_the_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(READ_AT_THE_START)}


class ForkServer:
    """The process that is forked, and the way to ask it. modules: what it imports."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.environ = read_at_the_start(os.environ)
        self._asking = threading.Lock()
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        atexit.register(self._channel.close)
        path = os.pathsep.join([str(SERVER.parent), str(SERVER.parents[1])])
        with other:
            subprocess.Popen(  # it ends when nobody can ask any more
                [sys.executable, SERVER, str(other.fileno()), path, *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
            ).returncode = 0

    def fork(self, arguments: Sequence[str], environ: Mapping[str, str], cwd: str, streams: list[int]) -> int:
        """Start a program with these streams as its first descriptors; return its process id.

        Its parent ends at once. Linux then gives it to the nearest ancestor that takes orphans, which is this
        process for that moment.
        """
        request = {"arguments": arguments, "environ": dict(environ), "cwd": cwd, "umask": _umask()}
        with self._asking:
            _take_orphans(1)
            try:
                socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
                return int(self._channel.recv(64))
            finally:
                _take_orphans(0)


def _umask() -> int:
    """This process's umask, which is not set for a moment to be read: other threads make files."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("Umask:"))
    return int(line.split()[1], 8)


@cache
def _server(modules: Sequence[str]) -> ForkServer:
    return ForkServer(modules)


def _take_orphans(wanted: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, wanted, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _can_be_forked(executable: str, environ: Mapping[str, str], *special: object) -> bool:
    if "REAL_PROCESSES" in os.environ or executable != sys.executable or any(special):
        return False
    return read_at_the_start(environ) == _server(OTHERS).environ


class Popen(subprocess.Popen):
    """A process as `subprocess.Popen` makes it, but forked where that makes no difference."""

    def _execute_child(self, args, *given):
        _, preexec, _, pass_fds, cwd, env, _, _, shell, *pipes = given[:15]
        environ = os.environ if env is None else env
        if not _can_be_forked(args[0], environ, preexec, pass_fds, shell):
            super()._execute_child(args, *given)
            return
        streams = [
            number if pipe == -1 else pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))
        ]
        arguments = [os.fsdecode(part) for part in args[1:]]
        of_sqlite = any(map(OF_SQLITE.search, arguments[:3]))
        server = _server(SQLITE if of_sqlite else SERVE if "serve" in arguments else OTHERS)
        self.pid = server.fork(arguments, environ, os.fspath(cwd or Path.cwd()), streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(command, *, input=None, timeout=None, check=False, capture_output=False, **options):  # noqa: A002
    """`subprocess.run` with a `Popen` of ours."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(command, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done
