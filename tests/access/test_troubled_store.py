"""What becomes of tokens when the store fails half way: what was revoked stays out, all others stay in."""

from __future__ import annotations

import apsw
import pytest

from access.support import NOW, Keeper, settings_of
from access.test_streams import until
from takhin.broker.access import USES_NOTED_MS, Access
from takhin.disk.access_file import AccessFile
from takhin.errors import AccessUnavailableError, StorageFullError


class Failing(AccessFile):
    """A file that can be read and changed, but whose disk fails at what the test says."""

    loads_failing = 0
    full = False

    def load(self):
        if self.loads_failing:
            self.loads_failing -= 1
            raise AccessUnavailableError("cannot be read")
        return super().load()

    def settle(self):
        if self.full:
            raise StorageFullError("full")
        super().settle()


@pytest.fixture
def store(tmp_path):
    return Failing(tmp_path)


@pytest.fixture
def now():
    """The time, in a list: a test may change it."""
    return [NOW]


@pytest.fixture
async def access(store, tmp_path, now):
    access = Access(store, settings_of(tmp_path).access, lambda: now[0], {})
    await access.start()
    yield access
    await access.stop(1)


async def test_a_full_disk_hides_no_revocation(access, store, tmp_path):
    """Where the log cannot be copied into the file, what another process revokes is out all the same."""
    keeper = Keeper(tmp_path)
    text = keeper.token()
    await until(lambda: access.token(text))
    store.full = True
    keeper.revoke("me")
    await until(lambda: access.token(text) is None)
    await access.create_token("other", expires_at=0, note="")
    assert access.trouble is None


async def test_a_change_that_could_not_be_taken_in_is_taken_in_later(access, store):
    """A token whose revocation was committed, but not read back, is out at the next look."""
    text, _ = await access.create_token("me", expires_at=0, note="")
    looks = []
    access.on_look.append(lambda: looks.append(access.version))
    await until(lambda: len(looks) > 1)
    store.loads_failing = 1
    with pytest.raises(AccessUnavailableError):
        await access.revoke_tokens("me")
    await until(lambda: access.token(text) is None)
    assert access.trouble is None


async def test_a_listener_that_fails_does_not_end_the_looking(access, tmp_path):
    """Whatever a listener raises, others hear of changes, and changes are seen from then on."""

    def fail():
        raise RuntimeError

    heard = []
    access.on_look += [fail, lambda: heard.append(access.version)]
    text = Keeper(tmp_path).token()
    await until(lambda: access.token(text))
    Keeper(tmp_path).revoke("me")
    await until(lambda: access.token(text) is None)
    await until(lambda: heard and heard[-1] == access.version)


async def test_a_removed_log_is_noticed_and_undoes_nothing(access, tmp_path):
    """Without -wal and -shm nobody is let in by what was; what was acknowledged before is in force after."""
    kept, _ = await access.create_token("kept", expires_at=0, note="")
    text, _ = await access.create_token("me", expires_at=0, note="")
    await access.revoke_tokens("me")
    version = access.version
    for beside in ("-wal", "-shm"):
        (tmp_path / f"access.db{beside}").unlink()
    await until(lambda: access.version >= version + 2)  # into trouble and out of it
    assert access.token(text) is None
    assert access.token(kept)
    Keeper(tmp_path).revoke("kept")
    await until(lambda: access.token(kept) is None)


@pytest.mark.parametrize("beside", ["-wal", "-shm"])
def test_no_change_is_acknowledged_in_a_removed_log(store, tmp_path, beside):
    """A change whose log has no name any more is refused, and so is a look."""
    store.open()
    Keeper(tmp_path).token()
    (tmp_path / f"access.db{beside}").unlink()
    with pytest.raises(AccessUnavailableError, match="removed"):
        store.remove_tokens("me")
    with pytest.raises(AccessUnavailableError, match="removed"):
        store.changed()
    store.close()


async def test_a_lock_of_another_process_locks_nobody_out(access, store, tmp_path, now, monkeypatch):
    """While another process may write, uses wait, the file can be opened, and tokens hold."""
    monkeypatch.setattr("takhin.disk.access_file.BUSY_MS_MAX", 20)
    text, _ = await access.create_token("me", expires_at=0, note="")
    other = apsw.Connection(str(tmp_path / "access.db"))
    other.execute("BEGIN IMMEDIATE")
    async with access._one:
        store.reopen()
    assert access.token(text)
    now[0] += USES_NOTED_MS
    noted_at = access._noted_at
    await until(lambda: access._noted_at != noted_at and access._uses)
    assert access.trouble is None
    other.execute("ROLLBACK")
    other.close()
    now[0] += USES_NOTED_MS
    await until(lambda: not access._uses)
    assert (await access.revoke_tokens("me"))[0].last_used_at == NOW
