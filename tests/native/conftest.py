"""Lets the tests of this folder run with another build of the library than that of the installation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from takhin import native

if (path := os.environ.get("NATIVE_LIBRARY")) is not None:  # before a module asks whether there is one
    library = native.Library(Path(path))
    native.found = lambda: library


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What a test's chances follow from. SEED in the environment repeats a run; a failure shows its own."""
    chosen = int(os.environ.get("SEED", int.from_bytes(os.urandom(4))))
    print(f"SEED={chosen}")
    return chosen
