"""deploy/container: what the Containerfile promises, and each of its steps run in a root of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from containers import Build, may_mount, mount, steps
from test_tidy import ROOT, files_of_the_project

FILE = ROOT / "deploy/container/Containerfile"
BUILDING = re.compile(r"(PIP_|SSL_|HTTPS?_PROXY)\w*", re.IGNORECASE)
READY_S_MAX = 30


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    """The texts of the last stage's steps, by verb."""
    all_steps = steps(FILE.read_text())
    last = max(number for number, step in enumerate(all_steps) if step.verb == "FROM")
    found: dict[str, list[str]] = {}
    for step in all_steps[last:]:
        found.setdefault(step.verb, []).append(step.text)
    return found


def test_it_runs_as_nobody_in_particular(said):
    """The user is a number that is not root's, so that an engine can see that; data is in a volume."""
    (user,) = said["USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert said["VOLUME"] == ["/data"]
    assert said["STOPSIGNAL"] == ["SIGTERM"]
    assert said["ENTRYPOINT"] == ['["takhin"]']  # not through a shell, which would keep the signal


def test_what_it_copies_is_there():
    """Each COPY from the checkout names files of the project, and each base has a plain name."""
    project = {str(path.relative_to(ROOT)) for path in files_of_the_project()}
    for step in steps(FILE.read_text()):
        if step.verb == "COPY" and not step.text.startswith("--from"):
            for name in step.words[:-1]:
                assert any(path == name or path.startswith(f"{name}/") for path in project), name
        if step.verb == "FROM":
            assert re.fullmatch(r"[a-z]+:[\w.-]+", step.words[0])


def test_arguments_and_long_lines():
    """The reader of Containerfiles fills in ARG, joins lines, and leaves comments out."""
    text = 'ARG A=b:1\n# no\nFROM ${A} AS x\nRUN one \\\n    && two ${B}\nCMD ["a b", "c"]\n'
    assert [tuple(step) for step in steps(text, A="c:2")][1:3] == [
        ("FROM", "c:2 AS x"),
        ("RUN", "one && two ${B}"),
    ]
    assert steps(text)[-1].words == ["a b", "c"]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The project as a fresh clone has it."""
    for path in files_of_the_project():
        copy = tmp_path / "checkout" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return tmp_path / "checkout"


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.skipif(not may_mount(), reason="mounting an overlay takes root")
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="stands in for the base image")
def test_each_step_and_the_broker(tmp_path, checkout, memory, figures):
    """The image's steps succeed; its broker serves as its user on a read-only root, and ends at SIGTERM."""
    building = {name: value for name, value in os.environ.items() if BUILDING.fullmatch(name)}
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, 10_001, 10_001)
    log = tmp_path / "log"
    began = time.monotonic()
    with ExitStack() as mounts:
        work = memory / "work"
        work.mkdir()
        mount(mounts, work, "-t", "tmpfs", "tmpfs")  # an overlay's own folder must not be in an overlay
        image = mounts.enter_context(Build(checkout, work, building).run(FILE.read_text()))
        built_s = time.monotonic() - began
        (volume,) = image.volumes
        subprocess.run(["mount", "-o", "remount,ro", image.root], check=True)
        mount(mounts, image.root / volume.lstrip("/"), "--bind", str(data))
        more = {"TAKHIN_ALLOW_PLAINTEXT": "true", "TAKHIN_LISTEN": "127.0.0.1:0"}
        image.variables |= more
        with log.open("wb") as stderr:
            serving = subprocess.Popen(
                image.inside([*image.entry, *image.command]), stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        try:
            ready = serving.stdout.readline()
            address = re.search(r'"address": "([\d.:]+)"', ready)
            assert address is not None, log.read_text()
            image.variables["TAKHIN_SERVER"] = address[1]

            def inside(*line: str) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    image.inside(list(line)), capture_output=True, text=True, check=False, timeout=60
                )

            assert inside("sh", "-c", image.health).returncode == 0
            assert inside("takhin", "topics", "create", "t").returncode == 0
            assert inside("takhin", "bench", "-n", "2000").returncode == 0
            written = inside("sh", "-c", "touch /app/x /tmp/x /etc/x; id -u")
            assert written.stderr.count("Read-only file system") == 3
            assert written.stdout == "10001\n"
            doctor = inside("takhin", "doctor")
            assert not re.search("^BAD|Traceback", doctor.stdout + doctor.stderr, re.MULTILINE), doctor.stdout
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(20) == 0
            assert inside("sh", "-c", image.health).returncode != 0
        finally:
            serving.kill()
            serving.wait()
            serving.stdout.close()
        assert {path.lstat().st_uid for path in data.rglob("*")} == {10_001}
        assert not list(data.rglob("*-wal"))
    figures(f"each step of the Containerfile, in {built_s:.0f} s; then served, read-only, as user 10001")
