"""`buf` guards the interface's style and compatibility."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUF = Path(sysconfig.get_path("scripts")) / "buf"
PROTO = "proto/takhin/v1/takhin.proto"


@pytest.fixture
def tree(tmp_path):
    """A copy of what buf reads, for the test to change."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def change(tree, old, new):
    """Replace `old`, which the .proto contains once, with `new`."""
    path = tree / PROTO
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def buf(tree, *args):
    """(exit code, what it prints); buf exits with 100 if it finds something."""
    done = subprocess.run([BUF, *args], cwd=tree, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def lint(tree):
    return buf(tree, "lint")


def breaking(tree):
    return buf(tree, "breaking", "--against", "proto/released.binpb")


def test_our_interface_passes(tree):
    """The committed interface follows buf's style and breaks nothing that was released."""
    assert lint(tree) == (0, "")
    assert breaking(tree) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("int32 timeout_ms = 5;", "int32 timeout_ms = 15;", '"timeout_ms"'),
        ("int32 timeout_ms = 5;", "int32 patience_ms = 5;", '"timeout_ms"'),
        ("int32 timeout_ms = 5;", "int64 timeout_ms = 5;", '"timeout_ms"'),
        ("int32 timeout_ms = 5;", "reserved 5;", '"timeout_ms"'),
        ("  rpc HealthCheck(HealthCheckRequest) returns (HealthCheckResponse);\n", "", '"HealthCheck"'),
        ("ERROR_CODE_TOPIC_EXISTS = 13;", "ERROR_CODE_TOPIC_EXISTS = 99;", '"13" on enum "ErrorCode"'),
    ],
    ids=["renumbered", "renamed", "retyped", "removed", "rpc removed", "enum value renumbered"],
)
def test_a_breaking_change_is_named(tree, old, new, named):
    """A change of something released fails, and the message names it."""
    change(tree, old, new)
    code, printed = breaking(tree)
    assert code == 100
    assert named in printed


def test_an_addition_breaks_nothing(tree):
    """A new field is accepted."""
    change(tree, "int32 timeout_ms = 5;", "int32 timeout_ms = 5; string note = 99;")
    assert breaking(tree) == (0, "")
    assert lint(tree) == (0, "")


def test_the_style_of_additions_is_checked(tree):
    """A field that is not named like the others is refused."""
    change(tree, "int32 timeout_ms = 5;", "int32 timeout_ms = 5; string aNote = 99;")
    code, printed = lint(tree)
    assert code == 100
    assert "aNote" in printed
