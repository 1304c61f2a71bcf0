"""DATA/access.db: tokens and rules, in an SQLite file of its own that only its owner may read.

The broker has it open while it runs, and `takhin tokens` and `takhin access` open it beside it, or offline.
It is in WAL mode, so nobody who reads waits. The log is copied into the file soon after each change, so that
whoever removes the log undoes nothing old; but not while files are held for a copy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from takhin.access.rules import Rule, checked_rule
from takhin.access.store import Kept
from takhin.access.tokens import Token
from takhin.disk import statements_access as sql
from takhin.disk.connection import check_library, distrusted, set_pragma
from takhin.disk.faults import FileGoneError
from takhin.disk.folder import sync_folder
from takhin.disk.inodes import Inodes, inode
from takhin.disk.layout import Layout
from takhin.disk.plain import is_plain, open_plain
from takhin.errors import AccessUnavailableError, InvalidArgumentError, StartupError, StorageFullError
from takhin.schema.checksums import RESERVED_BYTES

APPLICATION_ID = 0x54414B41
"""The application_id of the file: "TAKA"."""
VERSION = 1
"""The user_version of the file."""
MODE = 0o600
BUSY_MS_MAX = 2_000
"""How long a change waits for another one's."""


class AccessFile:
    """Tokens and rules in a data folder: an AccessStore. Not for two threads at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._layout = Layout(data_dir)
        self._path = self._layout.access
        self._db: apsw.Connection | None = None
        self._inodes: Inodes | None = None  # of the last time it was opened
        self._seen = -1

    def open(self, *, make: bool = True) -> None:
        """Open the file, or make it if that is wanted. Raises StartupError with a sentence."""
        check_library()
        if not make and inode(self._path) is None:
            raise StartupError(
                f"there are no tokens and rules in {self._layout.data_dir}: no {self._path.name}"
            )
        try:
            self._make()
            if not is_plain(self._path):
                raise StartupError(f"{self._path} is no file")
            with distrusted(str(self._path), apsw.SQLITE_OPEN_READWRITE) as db:
                db.set_busy_timeout(BUSY_MS_MAX)
                self._set_up(db)
        except apsw.CantOpenError as error:
            raise StartupError(
                f"{self._path} cannot be opened: {error}. It must belong to the user who runs the broker"
            ) from error
        except (apsw.FullError, apsw.BusyError, apsw.ReadOnlyError) as error:
            raise StartupError(f"{self._path} cannot be used: {error}") from error
        except apsw.Error as error:
            raise StartupError(
                f"{self._path} is damaged, or none of Takhin's: {error}. Nobody can be let in by it: put "
                "a copy of it back, or move it away and make tokens and rules again"
            ) from error
        except OSError as error:
            raise StartupError(f"{self._path} cannot be opened: {error.strerror}") from error
        self._db, self._inodes = db, Inodes(self._path)
        self._seen = -1

    def close(self) -> None:
        if self._db is not None:
            # Held: its file must not change, and the next one who opens it does the rest. Not in its place:
            # another file's -wal may have the name by now, and must not be removed.
            if self._is_held() or not self._is_in_place():
                self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._db.close()
            self._db = None

    def changed(self) -> bool:
        self._check_place()
        with self._explained() as db:
            seen = db.pragma("data_version")
        changed, self._seen = bool(seen != self._seen), seen
        return changed

    def settle(self) -> None:
        self._check_place()
        if not self._is_held():
            with self._explained() as db:
                db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def reopen(self) -> None:
        if inode(self._path) is None:
            raise AccessUnavailableError(f"{self._path} was removed under the running broker")
        self.close()
        try:
            self.open()
        except StartupError as error:
            raise AccessUnavailableError(str(error)) from error

    def load(self) -> Kept:
        with self._transaction(sql.BEGIN_READ) as db:
            tokens = [Token(*row) for row in db.execute(sql.TOKENS)]
            rows = list(db.execute(sql.RULES))
        try:
            return Kept(tokens, [_rule(*row) for row in rows])
        except (InvalidArgumentError, ValueError) as error:
            raise AccessUnavailableError(f"{self._path} holds a rule that makes no sense: {error}") from error

    def add_token(self, token: Token, tokens_max: int) -> None:
        with self._transaction() as db:
            db.execute(sql.INSERT, token)
            _check_count(db.execute(sql.COUNT_TOKENS).get, tokens_max, "tokens", "access.tokens_max")

    def remove_tokens(self, id_or_principal: str) -> Sequence[Token]:
        with self._transaction() as db:
            for statement in (sql.REMOVE_TOKEN, sql.REMOVE_TOKENS):
                if removed := [Token(*row) for row in db.execute(statement, (id_or_principal,))]:
                    return removed
        return ()

    def change_rules(self, put: Sequence[Rule], drop: Sequence[Rule], rules_max: int) -> int:
        dropped = 0
        with self._transaction() as db:
            for rule in drop:
                db.execute(sql.DROP_RULE, rule[:4])
                dropped += db.changes()
            for rule in put:
                db.execute(sql.PUT_RULE, (*rule[:4], int(rule.allow)))
            _check_count(db.execute(sql.COUNT_RULES).get, rules_max, "rules", "access.rules_max")
        return dropped

    def note_uses(self, uses: Mapping[str, int]) -> None:
        with self._transaction() as db:
            for token_id, at in uses.items():
                db.execute(sql.NOTE_USE, (at, token_id))

    def _make(self) -> None:
        """Make an empty file that others cannot read, if there is none. Its tables follow when it is open.

        Someone who is root makes it for the folder's owner, who runs the broker.
        """
        folder = self._path.parent
        if not folder.exists():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)
        try:
            descriptor = open_plain(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, MODE)
        except FileExistsError:
            return
        try:
            if os.geteuid() == 0:
                owner = folder.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)
        sync_folder(folder)

    def _set_up(self, db: apsw.Connection) -> None:
        if not self._path.stat().st_size:
            db.reserve_bytes("main", RESERVED_BYTES)  # for checksums of pages
        set_pragma(db, "journal_mode", "wal")
        set_pragma(db, "synchronous", 2)  # FULL
        set_pragma(db, "wal_autocheckpoint", 0)
        if _is_new(db):
            db.execute(sql.BEGIN)
            try:
                if _is_new(db):  # unless another process was quicker
                    db.execute(sql.CREATE_TOKENS)
                    db.execute(sql.CREATE_RULES)
                    db.pragma("application_id", APPLICATION_ID)
                    db.pragma("user_version", VERSION)
            except BaseException:
                db.execute(sql.ROLLBACK)
                raise
            db.execute(sql.COMMIT)
        self._check(db)  # which takes no lock for writing: another process may hold it for long

    def _check(self, db: apsw.Connection) -> None:
        if db.pragma("application_id") != APPLICATION_ID:
            raise StartupError(f"{self._path} is none of Takhin's files of tokens and rules")
        if (version := db.pragma("user_version")) != VERSION:
            raise StartupError(f"{self._path} has version {version}; this Takhin knows version {VERSION}")
        if (found := db.execute(sql.QUICK_CHECK).get) != "ok":
            raise apsw.CorruptError(str(found))

    def _is_in_place(self) -> bool:
        try:
            self._check_place()
        except AccessUnavailableError:
            return False
        return True

    def _check_place(self) -> None:
        """Raises AccessUnavailableError if the file, or what SQLite keeps beside it, has lost its name."""
        if self._inodes is not None:
            try:
                self._inodes.check()
            except FileGoneError as error:
                raise AccessUnavailableError(
                    f"{self._path}, its -wal or its -shm was removed or replaced under the running broker"
                ) from error

    def _is_held(self) -> bool:
        return self._layout.hold.exists() or self._layout.held.exists()

    @contextmanager
    def _explained(self) -> Iterator[apsw.Connection]:
        if self._db is None:
            raise AccessUnavailableError(f"{self._path} is not open")
        try:
            yield self._db
        except apsw.FullError as error:
            raise StorageFullError(f"the disk has no room for a change of {self._path}") from error
        except apsw.BusyError as error:
            raise AccessUnavailableError(f"{self._path} is locked by another process") from error
        except apsw.Error as error:
            raise AccessUnavailableError(f"{self._path} cannot be used: {error}") from error

    @contextmanager
    def _transaction(self, begin: str = sql.BEGIN) -> Iterator[apsw.Connection]:
        self._check_place()
        with self._explained() as db:
            db.execute(begin)
            try:
                yield db
                db.execute(sql.COMMIT)
            except BaseException:
                if db.in_transaction:
                    db.execute(sql.ROLLBACK)
                raise
        self._check_place()  # else it is in a file that no start will find


def _rule(principal: str, action: str, resource: str, pattern: str, allow: int) -> Rule:
    return checked_rule(principal, action, resource, pattern, allow=bool(allow))


def _is_new(db: apsw.Connection) -> bool:
    """True for a file in which nothing was made yet."""
    numbers = db.pragma("user_version"), db.pragma("application_id")
    return numbers == (0, 0) and bool(db.execute(sql.COUNT_OBJECTS).get == 0)


def _check_count(count: int, most: int, what: str, setting: str) -> None:
    if count > most:
        raise InvalidArgumentError(f"there are {count - 1} {what} or more; the limit is {most} ({setting})")
