"""What is distributed: the source archive is whole, and the client needs none of the broker's libraries."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import takhin
from takhin import native
from takhin.client import compiled
from test_tidy import ROOT, files_of_the_project

SERVER_MODULES = {
    *("apsw", "backports", "click", "grpc_health", "grpc_reflection", "rich", "sqlite_utils", "structlog"),
    "uvloop",
}
"""What the extra `server` installs, by the names of imports."""
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
WITHOUT = f"""
import sys

class Absent:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {SERVER_MODULES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
"""Makes an interpreter one in which the client alone is installed."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the project as a fresh clone has it, in which archives can be built."""
    folder = tmp_path_factory.mktemp("tree")
    for path in files_of_the_project():
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return folder


def built(tree: Path, hook: str) -> Path:
    """The archive that a hook of the build backend makes, without a network."""
    command = [sys.executable, "-c", BUILD, hook, "dist"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    return tree / "dist" / done.stdout.splitlines()[-1]


def without_server(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_sdist_has_everything(tree):
    """The source archive has every file of the project: docs, tests, the .proto, the Makefile."""
    with tarfile.open(built(tree, "build_sdist")) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    project = {str(path.relative_to(ROOT)) for path in files_of_the_project()}
    assert project - names == set()
    assert {name for name in names - project if ".egg-info" not in name} == {"setup.cfg", "PKG-INFO"}


def test_the_wheel_says_whose_it_is_and_what_it_needs(tree):
    """The metadata has license and authors, and asks for no more than the client needs."""
    with zipfile.ZipFile(built(tree, "build_wheel")) as wheel:
        info = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(wheel.read(info))
        assert info.replace("METADATA", "licenses/LICENSE") in wheel.namelist()
        assert "takhin/v1/takhin.proto" in wheel.namelist()
        has_part = any(name.startswith("takhin/client/_compiled.") for name in wheel.namelist())
        has_library = any(name.startswith(f"takhin/{native.NAME}.") for name in wheel.namelist())
    assert has_part is (compiled.module is not None)
    assert has_library is isinstance(native.found(), native.Library)  # which was built as this one is
    assert (metadata["License-Expression"], metadata["Author"]) == ("Apache-2.0", "Takhin developers")
    required = {line.partition(">")[0] for line in metadata.get_all("Requires-Dist") if "extra" not in line}
    assert required == {"grpcio", "grpcio-status", "protobuf"}


def test_the_client_runs_without_the_libraries_of_the_broker():
    """Everything that takhin.client offers is imported without SQLite, uvloop, rich and the rest."""
    done = without_server("import takhin.client, takhin.client.sync, takhin.testing; print('imported')")
    assert (done.stdout, done.stderr) == ("imported\n", "")


@pytest.mark.parametrize(("args", "code"), [(["topics", "list"], 1), (["serve"], 2), (["--help"], 1)])
def test_the_command_names_what_is_missing(args, code):
    """Where the client alone is installed, the command says so in one line."""
    done = without_server("from takhin.__main__ import main; sys.exit(main())", *args)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert "click is not installed" in line
    assert "`server`" in line


def test_a_broker_for_tests_names_what_is_missing():
    """MemoryBroker raises the import's error at once instead of waiting for a broker that cannot come."""
    began = time.monotonic()
    done = without_server("from takhin.testing import MemoryBroker; MemoryBroker().start()")
    assert "ModuleNotFoundError: No module named 'structlog'" in done.stderr
    assert time.monotonic() - began < 10


def test_the_version_is_in_the_package():
    """takhin.__version__ is the distribution's; importing the package alone does not look it up."""
    assert takhin.__version__ == version("takhin")
    assert takhin.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import takhin
print("importlib.metadata" in sys.modules, hasattr(takhin, "nothing"))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


def test_make_serve_leaves_every_setting_to_its_caller():
    """`make serve` gives no flag of its own, since one that may be repeated would add to those in ARGS."""
    line = ["make", "--dry-run", "serve", "ARGS=--listen 127.0.0.1:1"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, env=alone)
    assert done.stdout.splitlines()[-1].endswith("/takhin serve --listen 127.0.0.1:1")
