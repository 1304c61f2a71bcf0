"""The .proto is part of the package, so that anyone who has installed Takhin can generate a client."""

import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "takhin/v1/takhin.proto"
BUILD = "import setuptools.build_meta as backend, sys; backend.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with a wheel's content, built from a copy of the tree: setuptools leaves files behind."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("takhin", "schema", "proto"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    wheels = tmp_path_factory.mktemp("wheels")
    built = [sys.executable, "-c", BUILD, wheels]
    subprocess.run(built, cwd=source, check=True, capture_output=True, timeout=100)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheels)
    return wheels


def test_the_wheel_has_the_proto(installed):
    """A wheel has the .proto file itself, not a link, beside the code that was generated from it."""
    shipped = installed / NAME
    assert not shipped.is_symlink()
    assert shipped.read_bytes() == (ROOT / "proto" / NAME).read_bytes()


def test_a_client_is_generated_from_what_is_installed(installed, tmp_path):
    """protoc accepts the folder of the installed packages, and the .proto under its name there."""
    generate = [sys.executable, "-m", "grpc_tools.protoc", "-I", installed, f"--python_out={tmp_path}", NAME]
    subprocess.run(generate, check=True, timeout=60)
    generated = tmp_path / "takhin/v1/takhin_pb2.py"
    assert generated.read_bytes() == (ROOT / "takhin/v1/takhin_pb2.py").read_bytes()


def test_the_package_has_the_proto():
    """importlib.resources finds the interface, even in an editable install."""
    shipped = importlib.resources.files("takhin.v1") / "takhin.proto"
    assert shipped.read_bytes() == (ROOT / "proto" / NAME).read_bytes()
