"""Names from outside: a clear refusal or success by the rule, and no trace outside the data folder."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from blackbox.broker_process import Broker, looked_over
from blackbox.clients import CALL_S_MAX, connected, end_offset, error_name, produce
from takhin.v1 import takhin_pb2 as pb

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
"""Else the warning about a long name hides why a test failed."""

RULE = re.compile(r"[a-zA-Z0-9._-]{1,249}")
GROUP_ID_BYTES_MAX = 255

FAMOUS = [
    "",
    ".",
    "..",
    "...",
    "../escaped",
    "../../escaped",
    "a/../../escaped",
    "/escaped",
    "a/b",
    "a\\b",
    "..\\escaped",
    "a\x00b",
    "\x00",
    "a\n",
    "\n",
    "a\r\n",
    " a",
    "a ",
    "a\tb",
    "-",
    "--help",
    "-rf",
    "._",
    ".hidden",
    "0",
    "0.db",
    "a.db",
    "a.db-wal",
    "LOCK",
    "topics",
    "CON",
    "nul.txt",
    "a:b",
    "~",
    "~root",
    "$HOME",
    "$(touch escaped)",
    "`touch escaped`",
    "%2e%2e%2fescaped",
    "{0}",
    "%s",
    "*",
    "?",
    "[a]",
    "'; drop table records; --",
    '"',
    "file:escaped?mode=rwc",
    ":memory:",
    "a?mode=memory",
    "a#b",
    "__",
    "__a",
    "_a",
    "_",
    "тема",
    "é",
    "e\u0301",
    "\u202egnp",
    "\ufeffa",
    "\u0000a",
    "\U0001f600",
    "\uff21",
    "\uff11",
    "a" * 249,
    "a" * 250,
    "." * 249,
    ".." + "/.." * 40,
    "é" * 125,
    "a" * 255,
    "a" * 256,
    "a" * 4_096,
    "a" * 60_000,  # more is refused for its size
    "A",
    "a",
]

ALPHABET = st.one_of(
    st.sampled_from("abzAZ059._-"), st.sampled_from("/\\\x00\n\r ~:*?'\"%$_."), st.characters(codec="utf-8")
)
LONGEST = 15_000
"""Characters of at most four bytes: a request without records has at most 64 KiB."""
NAMES = st.one_of(
    st.from_regex(RULE, fullmatch=True),
    st.text(ALPHABET, max_size=12),
    st.text(st.sampled_from("ab._-/"), min_size=240, max_size=260),
    st.lists(st.sampled_from(["..", ".", "a", "", "\x00"]), min_size=2, max_size=6).map("/".join),
    st.sampled_from(FAMOUS).flatmap(
        lambda name: st.sampled_from([name + "\n", name + "/", "./" + name, (name * 2)[:LONGEST]])
    ),
)


def hostile(examples):
    """Run a test on the well-known names, then on this many random ones; BLACKBOX_SEED reproduces them."""

    def decorate(test):
        test = given(name=NAMES)(test)
        for name in FAMOUS:
            test = example(name=name)(test)
        if "BLACKBOX_SEED" in os.environ:
            test = seed(int(os.environ["BLACKBOX_SEED"]))(test)
        return settings(
            max_examples=examples,
            database=None,
            print_blob=True,
            phases=[Phase.explicit, Phase.generate],  # shrinking would create the topics again
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )(test)

    return decorate


def tree(folder, *, without):
    """Everything below a folder except `without` and its contents: names, sizes, modification times."""
    found = {}
    for path in folder.rglob("*"):
        if without not in (path, *path.parents):
            status = path.lstat()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture
def surroundings(tmp_path):
    """A data folder so deep that `..` leads to other files, which must stay unchanged."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    for parent in (folder, *folder.parents[:3]):
        (parent / "escaped.txt").write_text("not the broker's")
    data_dir = folder / "data"
    data_dir.mkdir()
    before = tree(tmp_path, without=data_dir)
    with looked_over(data_dir):
        yield data_dir
    assert tree(tmp_path, without=data_dir) == before


def allowed(name):
    return RULE.fullmatch(name) is not None and name not in {".", ".."} and not name.startswith("__")


@pytest.mark.parametrize(
    "examples", [200, pytest.param(5_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_hostile_topic_names(surroundings, examples, figures):
    """CreateTopic follows the rule exactly, and no other folders than its own are made."""
    topics = surroundings / "topics"

    @hostile(examples)
    def create(name):
        response = stub.CreateTopic(pb.CreateTopicRequest(name=name), timeout=CALL_S_MAX)
        counts[error_name(response)] = counts.get(error_name(response), 0) + 1
        if not allowed(name):
            assert (response.success, error_name(response)) == (False, "INVALID_TOPIC_NAME")
            assert "topic name" in response.error
            assert stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX).topics == []
            assert list(topics.iterdir()) == []
            return
        assert (response.success, response.error) == (True, "")
        assert [path.name for path in topics.iterdir()] == [name]
        assert produce(stub, name, [b"v"]) == 0
        assert end_offset(stub, name) == 1
        assert stub.DeleteTopic(pb.DeleteTopicRequest(name=name), timeout=CALL_S_MAX).success
        assert list(topics.iterdir()) == []

    counts = {}
    with Broker(surroundings) as broker, connected(broker.address) as stub:
        create()
    assert min(counts.values()) >= 20
    figures(f"hostile topic names: {counts}, nothing outside the data folder")


@pytest.mark.parametrize(
    "examples", [200, pytest.param(5_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_hostile_group_ids(surroundings, examples):
    """A group id of 1 to 255 bytes may contain any character and comes back unchanged; others are refused."""

    @hostile(examples)
    def commit(name):
        offsets = [pb.TopicPartitionOffset(topic="topic", offset=1, metadata=name[:1_000])]
        request = pb.CommitOffsetRequest(group_id=name, offsets=offsets)
        response = stub.CommitOffset(request, timeout=CALL_S_MAX)
        fits = 1 <= len(name.encode()) <= GROUP_ID_BYTES_MAX
        assert (response.success, error_name(response)) == (fits, "" if fits else "INVALID_GROUP_ID")
        if fits:
            committed.add(name)
            asked = pb.GetCommittedOffsetsRequest(group_id=name)
            (offset,) = stub.GetCommittedOffsets(asked, timeout=CALL_S_MAX).offsets
            assert (offset.topic, offset.partition, offset.offset) == ("topic", 0, 1)
            assert offset.metadata == name[:1_000]

    committed = set()
    with Broker(surroundings) as broker, connected(broker.address) as stub:
        assert stub.CreateTopic(pb.CreateTopicRequest(name="topic"), timeout=CALL_S_MAX).success
        produce(stub, "topic", [b"v"])
        commit()
        broker.kill()
    with Broker(surroundings) as broker, connected(broker.address) as stub:
        groups = stub.ListConsumerGroups(pb.ListConsumerGroupsRequest(), timeout=CALL_S_MAX).groups
        assert {group.group_id for group in groups} == committed
        assert [path.name for path in (surroundings / "topics").iterdir()] == ["topic"]


@pytest.mark.parametrize("method", ["GetTopic", "DeleteTopic"])
def test_hostile_names_find_nothing(surroundings, method):
    """A request for a hostile name is refused by name; `..` finds and deletes nothing."""
    with Broker(surroundings) as broker, connected(broker.address) as stub:
        assert stub.CreateTopic(pb.CreateTopicRequest(name="good"), timeout=CALL_S_MAX).success
        for name in [
            *FAMOUS,
            "good/",
            "./good",
            "good/../good",
            "good/.",
            "good\x00",
            "../topics/good",
            "GOOD",
        ]:
            request = getattr(pb, f"{method}Request")(name=name)
            response = getattr(stub, method)(request, timeout=CALL_S_MAX)
            assert error_name(response) == ("UNKNOWN_TOPIC" if allowed(name) else "INVALID_TOPIC_NAME")
        assert stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX).topics == ["good"]
