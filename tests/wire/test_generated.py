"""The committed code of takhin/v1 is what the pinned generator makes of the proto file."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_code_is_current(tmp_path: Path) -> None:
    """Generating takhin/v1 again changes nothing; if it does, run `make proto` and commit the result."""
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]  # for protoc-gen-mypy
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", *outputs, "proto/takhin/v1/takhin.proto"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PATH": plugins},
    )
    fresh = {path.name: path.read_text() for path in (tmp_path / "takhin/v1").iterdir()}
    committed = {
        path.name: path.read_text()
        for path in (ROOT / "takhin/v1").glob("*.py*")
        if path.name != "__init__.py"
    }
    assert fresh.keys() == committed.keys()
    for name, code in fresh.items():
        assert committed[name] == code, name
