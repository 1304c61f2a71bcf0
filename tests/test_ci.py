"""Continuous integration runs everything that must pass before a merge."""

from __future__ import annotations

import stat

from test_tidy import ROOT


def test_the_program_of_continuous_integration():
    """`.ci/run` can be run, checks and tests everything, and ends at the first failure."""
    path = ROOT / ".ci/run"
    lines = path.read_text().splitlines()
    assert path.stat().st_mode & stat.S_IXUSR
    assert lines[0] == "#!/usr/bin/env bash"
    places = [lines.index(line) for line in ("set -euo pipefail", "make check", "make test")]
    assert places == sorted(places)
