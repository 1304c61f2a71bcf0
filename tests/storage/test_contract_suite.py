"""The contract suite itself: it fails if a promise is broken, and leaves out what was not promised."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from takhin.testing.contract import EngineContract

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[str, str]]]:
    """The (outcome, message) of each test of each class in broken_engines.py.

    pytest-asyncio is strict there: the suite needs no more than the author's class.
    """
    report = tmp_path_factory.mktemp("suite") / "report.xml"
    options = ["-q", "--tb=no", "--no-summary", "-p", "no:cacheprovider", "-o", "asyncio_mode=strict"]
    engines = Path(__file__).with_name("broken_engines.py")
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", engines]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for case in ET.parse(report).getroot().iter("testcase"):
        kind, message = next(((child.tag, child.get("message", "")) for child in case), ("passed", ""))
        found[case.get("classname", "").rpartition(".")[2]][case.get("name", "")] = (kind, message)
    return found


@pytest.mark.parametrize(
    ("engine", "failing"),
    [
        ("TestHalving", {"test_readers_see_whole_batches"}),
        (
            "TestSleeping",
            {
                "test_an_append_wakes_who_waits",
                "test_a_delete_wakes_who_waits",
                "test_a_close_wakes_who_waits",
                "test_a_consumer_that_follows_misses_nothing",
            },
        ),
        ("TestAbsentminded", {"test_a_commit_is_read_back", "test_a_commit_over_partitions_and_topics"}),
        (
            "TestBoastful",
            {
                "test_records_are_there_again",
                "test_committed_offsets_are_there_again",
                "test_changes_of_a_topic_are_there_again",
            },
        ),
    ],
)
def test_a_broken_engine_fails(outcomes, engine, failing):
    """Those tests fail that cover the promise that the engine breaks."""
    assert {name for name in failing if outcomes[engine][name][0] != "failure"} == set()


def test_what_an_engine_lacks_is_skipped_by_name(outcomes):
    """An engine that is not durable and has neither trims, sequences nor sources passes everything else."""
    found = outcomes["TestModest"]
    assert {kind for kind, _ in found.values()} == {"passed", "skipped"}
    reasons = {name: message for name, (kind, message) in found.items() if kind == "skipped"}
    assert set(reasons.values()) == {
        f"Modest lacks the capability {name}"
        for name in ("COMPACT", "DURABLE", "SEQUENCES", "SOURCES", "TRIM")
    }
    assert reasons["test_trim_within_a_batch"] == "Modest lacks the capability TRIM"
    assert reasons["test_neighbours_are_left_alone"] == "Modest lacks the capability SEQUENCES"
    assert found["test_of_many_writers_one_wins"] == ("passed", "")


def test_no_part_of_the_suite_hides_another():
    """Each test's name is in one part only; otherwise the suite would run just one test of that name."""
    names = [name for part in EngineContract.__mro__ for name in vars(part) if name.startswith("test_")]
    assert len(names) == len(set(names)) > 100


def test_what_fails_says_why(outcomes):
    """Failing asserts in the suite show the values that they compare, as in any test."""
    assert "{}" in outcomes["TestAbsentminded"]["test_a_commit_is_read_back"][1]


@pytest.mark.parametrize("module", ["takhin.testing", "takhin.pytest_plugin", "takhin.testing.contract"])
def test_nobody_pays_for_what_they_do_not_use(module):
    """The fixtures of brokers load nothing of the suite, and the suite loads no engine and no gRPC."""
    unwanted = {"takhin.storage.memory", "takhin.storage.sqlite", "apsw", "grpc"}
    unwanted |= {"takhin.testing.contract"} - {module}
    code = f"import sys, {module}; print({unwanted!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
