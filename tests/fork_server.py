"""The process that forked.py forks: it imports what the programs need, and becomes one in each child."""

from __future__ import annotations

import atexit
import gc
import importlib
import itertools
import json
import os
import runpy
import signal
import socket
import sys
import types
from pathlib import Path

FLAGS = ("-I", "-P", "-S")
"""They say where to look for modules, and these are imported already."""
IMPORTED: dict[str, object] = {}
"""The modules that all programs find imported, by name. A program's end must not take them apart: most of
what a short program cost was to copy their memory for that."""


def forget_imported() -> None:
    """The last thing a program does before Python clears all that is in sys.modules, and frees it."""
    for name in IMPORTED:
        sys.modules.pop(name, None)


def import_all(names: list[str]) -> dict[str, str]:
    """Returns the variables that were set in the course of it."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # sqlite-utils imports numpy where it is installed
    before = set(os.environ)
    for name in names:
        importlib.import_module(name)
    (_only_thread,) = Path("/proc/self/task").iterdir()  # one with more of them must not be forked
    IMPORTED.update(sys.modules)
    for name in ("__main__", "builtins", "sys"):
        del IMPORTED[name]
    IMPORTED[""] = IMPORTED  # a cycle that is frozen is never freed
    gc.collect()
    gc.freeze()
    return {name: value for name, value in os.environ.items() if name not in before}


def serve(channel: socket.socket) -> tuple[dict, list[int]] | None:
    """Fork for each request. Returns in the children, with the request, and when nobody asks any more."""
    while True:
        request, streams, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not request:
            return None
        told, tell = os.pipe()
        gone, here = os.pipe()
        between = os.fork()
        if between == 0:
            if (child := os.fork()) == 0:
                os.close(here)
                os.read(gone, 1)  # returns after its parent's end: from then on it has the right one
                return json.loads(request), streams
            os.write(tell, b"%d" % child)
            os._exit(0)
        os.waitpid(between, 0)
        os.close(here)
        channel.send(os.read(told, 64))
        for descriptor in (told, tell, gone, *streams):
            os.close(descriptor)


def become(request: dict, streams: list[int], variables: dict[str, str]) -> None:
    """Take on what the program is given, and run it."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 1_024)
    os.environ.clear()
    os.environ.update(variables | request["environ"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    what, *arguments = itertools.dropwhile(FLAGS.__contains__, request["arguments"])
    if what == "-m":
        sys.argv = arguments
        sys.path.insert(0, request["cwd"])
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *arguments[1:]]
        sys.path.insert(0, "")
        program = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), vars(program))
    else:
        sys.argv = [what, *arguments]
        sys.path.insert(0, str(Path(what).parent))
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the tests and the programs
    atexit.register(forget_imported)  # before others, to be called after them
    sys.path[:1] = sys.argv[2].split(os.pathsep)
    variables = import_all(sys.argv[3:])
    if given := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(*given, variables)
