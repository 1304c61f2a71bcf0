"""DATA/access.db: modes, damage, other processes, crashes, limits, copies."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from access.support import NOW, Keeper
from storage.support import sqlite_engine
from takhin.access import tokens
from takhin.access.rules import checked_rule
from takhin.access.tokens import Token
from takhin.copies.backup import backup
from takhin.copies.verify import verify
from takhin.disk.access_file import AccessFile
from takhin.errors import AccessUnavailableError, InvalidArgumentError, StartupError
from takhin.testing.contract import numbered, spec


@pytest.fixture
def file(tmp_path):
    file = AccessFile(tmp_path / "data")
    file.open()
    yield file
    file.close()


def token(token_id: str = "1", principal: str = "me") -> Token:
    return Token(token_id, principal, tokens.digest_of(token_id), NOW, note="a note")


RULE = checked_rule("me", "read", "topic", "a*", allow=True)


def test_what_is_kept(file, tmp_path):
    """Tokens and rules are there after reopening; a rule takes the place of one about the same."""
    file.add_token(token(), 10)
    assert file.change_rules([RULE], [], 10) == 0
    assert file.change_rules([RULE._replace(allow=False)], [], 10) == 0
    file.note_uses({"1": NOW + 5, "unknown": 7})
    file.note_uses({"1": NOW})  # never back
    file.close()
    file.open()
    assert file.load() == ([token()._replace(last_used_at=NOW + 5)], [RULE._replace(allow=False)])
    assert file.change_rules([], [RULE, RULE], 10) == 1
    assert file.remove_tokens("me") == [token()._replace(last_used_at=NOW + 5)]
    assert file.remove_tokens("me") == ()
    assert file.load() == ([], [])


def test_an_id_comes_before_a_name(file):
    """A token's id names that token alone, also if a principal has that name."""
    for each in (token("1", "me"), token("2", "1"), token("3", "me")):
        file.add_token(each, 10)
    assert [of.token_id for of in file.remove_tokens("1")] == ["1"]
    assert [of.token_id for of in file.remove_tokens("me")] == ["3"]


def test_only_its_owner_reads_it(file, tmp_path):
    """The file, and what SQLite keeps beside it, are the owner's alone, whatever the umask; none is left."""
    file.close()
    shutil.rmtree(tmp_path / "data")
    before = os.umask(0)
    try:
        file.open()
        file.add_token(token(), 10)
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert found == {"access.db": 0o600, "access.db-wal": 0o600, "access.db-shm": 0o600}
    file.close()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["access.db"]


def test_limits(file):
    """More tokens or rules than the limit are refused, and nothing of the change is done."""
    file.add_token(token(), 1)
    with pytest.raises(InvalidArgumentError, match="the limit is 1"):
        file.add_token(token("2"), 1)
    others = [RULE._replace(pattern=f"b{n}") for n in range(3)]
    with pytest.raises(InvalidArgumentError, match="the limit is 2"):
        file.change_rules(others, [], 2)
    assert file.load() == ([token()], [])


def test_changes_of_others_are_seen(file, tmp_path):
    """A change by another connection is seen, once; one's own is not."""
    assert file.changed()
    assert not file.changed()
    file.add_token(token(), 10)
    assert not file.changed()
    Keeper(tmp_path / "data").token()
    assert file.changed()
    assert not file.changed()


def test_a_long_wal_is_copied_into_the_file_unless_held(file, tmp_path):
    """The write-ahead log does not grow without bound; while files are held for a copy, nothing is copied."""
    wal, hold = tmp_path / "data/access.db-wal", tmp_path / "data/hold"

    def grow():
        for n in range(40):
            file.change_rules([RULE._replace(pattern=f"{'x' * 240}{n}{m}") for m in range(200)], [], 99_999)

    grow()
    hold.touch()
    before = (tmp_path / "data/access.db").stat().st_mtime_ns
    file.settle()
    assert (tmp_path / "data/access.db").stat().st_mtime_ns == before
    hold.unlink()
    file.settle()
    assert (tmp_path / "data/access.db").stat().st_mtime_ns != before
    size = wal.stat().st_size
    file.add_token(token(), 10)
    assert wal.stat().st_size == size  # it is written from its beginning again


def other_application(path: Path) -> None:
    path.unlink()
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE x(y)")
    db.close()


def pragma(path: Path, name: str, value: int) -> None:
    db = apsw.Connection(str(path))
    db.pragma(name, value)
    db.close()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "garbage": lambda path: path.write_bytes(os.urandom(8_192)),
    "no database": lambda path: path.write_text("hello"),
    "another application's": other_application,
    "a flipped bit": flip,
    "cut": lambda path: os.truncate(path, 5_000),
    "newer": lambda path: pragma(path, "user_version", 2),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "a table is missing": lambda path: pragma(path, "application_id", 7),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_lets_nobody_in(file, tmp_path, damage):
    """A file that is damaged, or none of ours, is refused with a sentence that names it."""
    file.add_token(token(), 10)
    file.close()
    path = tmp_path / "data/access.db"
    DAMAGES[damage](path)
    with pytest.raises(StartupError, match=r"access\.db"):
        file.open()
    with pytest.raises(AccessUnavailableError):
        file.load()
    with pytest.raises(AccessUnavailableError):
        file.reopen()


def test_a_file_that_goes_away_is_noticed(file, tmp_path):
    """A removed file is not served on; another one in its place is taken by reopening, and is not harmed."""
    path = tmp_path / "data/access.db"
    path.unlink()
    with pytest.raises(AccessUnavailableError, match="removed or replaced"):
        file.changed()
    with pytest.raises(AccessUnavailableError, match="removed"):
        file.reopen()
    assert not path.exists()
    for beside in path.parent.iterdir():
        beside.unlink()
    text = Keeper(tmp_path / "data").token("other")
    file.reopen()
    assert [of.principal for of in file.load().tokens] == ["other"]
    assert tokens.find({of.digest: of for of in file.load().tokens}, text)


ADD_FOR_EVER = """
import sys
from pathlib import Path
from access.support import Keeper, MANY
keeper = Keeper(Path(sys.argv[1]))
while True:
    print(keeper.token("me"), flush=True)
"""


def test_a_killed_change_is_whole_or_not_there(tmp_path):
    """What was acknowledged before SIGKILL is there; the file opens as if nothing had happened."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", ADD_FOR_EVER, tmp_path / "data"],
        stdout=subprocess.PIPE,
        env=environ,
        text=True,
    )
    with child:
        made = [child.stdout.readline().strip() for _ in range(5)]
        child.send_signal(signal.SIGKILL)
    made += child.stdout.read().split() if not child.stdout.closed else []
    file = AccessFile(tmp_path / "data")
    file.open()
    kept = {of.digest: of for of in file.load().tokens}
    file.close()
    assert all(tokens.find(kept, text) for text in made)


def test_copies_do_not_stumble_over_it(tmp_path):
    """A data folder with tokens and rules can be backed up and verified."""

    async def fill() -> None:
        engine = sqlite_engine(tmp_path / "data")
        await engine.open()
        topic = await engine.create_topic(spec("orders"))
        await topic.partitions[0].append(numbered(3))
        await engine.close()

    asyncio.run(fill())
    Keeper(tmp_path / "data").token()
    backup(tmp_path / "data", tmp_path / "copy")
    assert verify(tmp_path / "data").ok
    assert verify(tmp_path / "copy").ok
