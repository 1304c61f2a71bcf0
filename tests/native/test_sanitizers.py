"""What is compiled under the address and undefined-behaviour sanitizers, in the other tests."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from test_tidy import ROOT

FLAGS = (
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
)
CLIENT_TESTS = ("test_compiled.py", "test_compiled_reads.py", "test_record_batches.py")
RUNTIMES = ("libasan.so", "libubsan.so")


def built(library, *sources):
    """Build sources with sanitizers. Returns what has to be loaded before the library."""
    if (compiler := shutil.which("gcc")) is None:
        pytest.skip("there is no gcc to build it with")
    done = subprocess.run(
        [compiler, *FLAGS, "-I", sysconfig.get_paths()["include"], "-o", library, *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    if any(missing in done.stderr for missing in ("sqlite3ext.h", "Python.h", "cannot find")):
        pytest.skip(f"it cannot be built here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    found = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in RUNTIMES
    ]
    return " ".join(each.stdout.strip() for each in found)


@pytest.fixture
def sanitized(tmp_path):
    """(a build of the library with sanitizers, what has to be loaded before it)."""
    library = tmp_path / "sanitized.so"
    return library, built(library, *sorted((ROOT / "native").glob("*.c")))


def under(variables, preload, *args):
    """Run tests. PYTHONMALLOC: else what is read behind the end of bytes would not be seen."""
    variables = variables | {
        "LD_PRELOAD": preload,
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_nothing_is_read_or_written_out_of_bounds(sanitized, figures):
    """A million requests of every shape and a million reads of every kind, and every wrong use."""
    names = ("test_requests.py", "test_reads.py", "test_library.py")
    files = [Path(__file__).with_name(name) for name in names]
    library, preload = sanitized
    variables = {"NATIVE_LIBRARY": str(library)}
    done = under(variables, preload, "--timeout", "7000", "-k", "not broker", *files)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    figures(f"native library under sanitizers: {done.stdout.splitlines()[-1]}")


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_the_part_of_clients_stays_within_bounds(tmp_path, figures):
    """Whatever is sent and read, in a copy of the package that has such a build."""
    package = shutil.copytree(
        ROOT / "takhin", tmp_path / "takhin", ignore=shutil.ignore_patterns("_compiled.*")
    )
    shutil.copytree(ROOT / "schema", package / "schema", dirs_exist_ok=True)
    sources = (ROOT / "native/wire.c", *sorted((ROOT / "native/client").glob("*.c")))
    preload = built(package / "client/_compiled.abi3.so", *sources)
    variables = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1", "COMPILED_EXAMPLES": "1000"}
    files = [ROOT / "tests/client" / name for name in CLIENT_TESTS]
    done = under(variables, preload, "--timeout", "3500", "-o", "pythonpath=tests", *files)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    figures(f"client's part under sanitizers: {done.stdout.splitlines()[-1]}")


@pytest.mark.control
def test_the_sanitizers_see_what_is_wrong(sanitized):
    """What reads ten bytes behind the end of a request is stopped."""
    code = (
        "import ctypes, os; from takhin import native; from pathlib import Path; "
        "library = native.Library(Path(os.environ['NATIVE_LIBRARY'])); facts = native.Facts(); "
        "wire = b'2' + bytes([102, 0x12, 100]) + b'v' * 90; "
        "library._scan(wire, len(wire) + 10, native.Limits(9, 9, 9, 9, 9), facts)"
    )
    library, preload = sanitized
    variables = {"NATIVE_LIBRARY": str(library), "LD_PRELOAD": preload, "PYTHONMALLOC": "malloc"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables | {"ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
