"""Whether records go through the native library: who decides it, who says it, and what it must not open."""

import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import apsw
import pytest
import structlog.testing

from blackbox.broker_process import Broker, environment
from storage.support import Store, sqlite_engine
from takhin import native
from takhin.disk import native as in_sqlite
from takhin.doctor.findings import Level
from takhin.doctor.machine import native_library
from takhin.errors import StartupError
from takhin.native import NAME, Library, NativeMissingError, NativeUnusableError
from takhin.settings import Settings, StorageSettings
from takhin.storage.contract import Capability
from takhin.testing.contract import batch, read_all, spec

BUILT = not isinstance(native.found(), Exception)
built = pytest.mark.skipif(not BUILT, reason=str(native.found()))

WITHOUT = """
import sys
from takhin import native
native.found = lambda: native.NativeMissingError("it was not built")
from takhin.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def missing(monkeypatch):
    """An installation without the library."""
    in_sqlite.load.cache_clear()
    monkeypatch.setattr(native, "found", lambda: NativeMissingError("it was not built"))
    yield
    in_sqlite.load.cache_clear()


@built
@pytest.mark.parametrize(("setting", "used"), [("auto", True), ("on", True), ("off", False)])
def test_the_setting_decides(tmp_path, setting, used):
    """Where the library is there."""
    assert (Capability.PACKED in sqlite_engine(tmp_path, native=setting).capabilities) is used


async def test_without_the_library(tmp_path, missing):
    """Everything works, and the engine does not ask for packed batches."""
    store = Store(tmp_path / "data", native="auto")
    await store.open()
    assert Capability.PACKED not in store.engine.capabilities
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    await log.append(batch(b"v"))
    assert len(await read_all(log)) == 1
    await store.close()


def test_a_broker_that_insists_on_it(tmp_path, missing):
    """It does not start without the library, and says what to do."""
    with pytest.raises(StartupError, match="no native library: it was not built; install"):
        sqlite_engine(tmp_path, native="on")


def test_it_says_so_in_one_line(tmp_path):
    """`takhin serve` does, with exit code 2, and without a traceback."""
    serve = [sys.executable, "-c", WITHOUT, "serve", "--data-dir", tmp_path, "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*serve, "--storage-native", "on"], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "storage.native is on, and there is no native library" in line


@pytest.mark.parametrize("setting", [*(["auto"] if BUILT else []), "off"])
def test_the_broker_says_which_way_records_go(tmp_path, setting):
    """In its ready line, also if the environment says it; and `takhin doctor` does."""
    with Broker(tmp_path, storage_native=setting) as broker:
        assert broker.ready["native"] == str(setting == "auto")
    settings = Settings(storage=StorageSettings(native=setting))
    (finding,) = native_library(settings)
    assert ("read in C" in finding.what) is (setting == "auto")


def test_the_doctor_says_why_there_is_none(missing):
    """That is no fault, unless the setting wants one."""
    found = [
        next(native_library(Settings(storage=StorageSettings(native=each)))) for each in ("auto", "off", "on")
    ]
    assert [finding.level for finding in found] == [Level.OK, Level.OK, Level.BAD]
    assert ["it was not built" in finding.what for finding in found] == [True, False, True]
    assert "gcc" in found[2].do


@pytest.mark.parametrize(
    ("setting", "level", "warns"),
    [("auto", Level.WARN, True), ("off", Level.OK, False), ("on", Level.BAD, False)],
)
def test_a_library_that_cannot_be_used(monkeypatch, setting, level, warns):
    """It is not taken for one that was never built: the broker's log and the doctor warn."""
    in_sqlite.load.cache_clear()
    monkeypatch.setattr(native, "found", lambda: NativeUnusableError("it is of another version"))
    refused = pytest.raises(StartupError, match="another version") if setting == "on" else nullcontext()
    with structlog.testing.capture_logs() as logs, refused:
        assert not in_sqlite.is_chosen(setting)
    assert [entry["event"] for entry in logs] == ["native_library_unusable"] * warns
    (finding,) = native_library(Settings(storage=StorageSettings(native=setting)))
    assert (finding.level, "another version" in finding.what) == (level, setting != "off")
    in_sqlite.load.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_library_that_lacks_a_function(tmp_path):
    """One that was built from older sources is reported, not raised through."""
    source, path = tmp_path / "old.c", tmp_path / f"{NAME}.so"
    source.write_text(f"int takhin_version(void) {{ return {native.VERSION}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", path], check=True)
    with pytest.raises(NativeUnusableError):
        Library(path)


@built
def test_no_connection_may_load_an_extension():
    """The library is loaded by one connection, which is closed; no other may load any, nor may SQL ever."""
    in_sqlite.load()
    db = apsw.Connection(":memory:")
    assert db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, -1) == 0
    assert db.execute("SELECT count(*) FROM pragma_module_list WHERE name LIKE 'takhin_%'").get == 3
    for load in (
        lambda: db.load_extension(str(native.library().path), in_sqlite.ENTRY_POINT),
        lambda: db.execute("SELECT load_extension(?)", (str(native.library().path),)).get,
    ):
        with pytest.raises(apsw.Error, match="not authorized"):
            load()
    db.close()


@built
def test_no_view_of_a_file_reaches_it():
    """Whoever gets a file from elsewhere runs none of its functions by looking into it."""
    in_sqlite.load()
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIEW v AS SELECT * FROM takhin_records(x'3200', 0, 0, 0)")
    with pytest.raises(apsw.SQLError, match="unsafe use of virtual table"):
        db.execute("SELECT * FROM v")
    db.close()


@built
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM takhin_records",
        "SELECT * FROM takhin_records(x'3200', 0, 0)",
        "SELECT * FROM takhin_headers(x'3200')",
        "SELECT * FROM takhin_read(0, 10)",
        "SELECT * FROM takhin_records(x'32', 0, 0, 0)",
        "SELECT * FROM takhin_records(x'3205', 0, 0, 0)",
        "SELECT * FROM takhin_headers(x'32021a00', 0)",
        "SELECT * FROM takhin_read(0, 10, 1, 1, 1, -1, 0, 10, 10)",
        "SELECT * FROM takhin_read(0, 10, 1, 1, 1, 0, 0, 0, 10)",
        "SELECT * FROM takhin_read(0, 10, 1, 1, 1, 0, 0, 10, 10)",
    ],
)
def test_wrong_use_is_an_error(statement):
    """Of its table functions: too few arguments, bytes that are not plain, no such table."""
    in_sqlite.load()
    db = apsw.Connection(":memory:")
    with pytest.raises(apsw.Error):
        db.execute(statement).fetchall()
    db.close()


@built
def test_nothing_comes_of_nothing():
    """No bytes are no records, and NULL is no bytes."""
    in_sqlite.load()
    db = apsw.Connection(":memory:")
    for nothing in ("NULL", "x''", "''"):
        assert not db.execute(f"SELECT * FROM takhin_records({nothing}, 0, 0, 0)").fetchall()
        assert not db.execute(f"SELECT * FROM takhin_headers({nothing}, 0)").fetchall()
    last = (1 << 63) - 1
    rows = db.execute("SELECT offset FROM takhin_records(x'32003200', ?, 0, 0)", (last,)).fetchall()
    assert rows == [(last,), (-(1 << 63),)]
    db.close()


def test_a_file_that_is_no_library(tmp_path):
    """It is reported, not raised through: text, and the wrong kind of library."""
    path = tmp_path / f"{NAME}.so"
    path.write_text("no library")
    with pytest.raises(NativeUnusableError, match="cannot be loaded"):
        Library(path)
    shutil.copyfile(apsw.__file__, path)
    with pytest.raises(NativeUnusableError, match="cannot be loaded"):
        Library(path)


@built
def test_a_library_of_another_version(monkeypatch):
    """One that is left from another version of the package is not used."""
    path = native.library().path
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    with pytest.raises(NativeUnusableError, match="install takhin again"):
        Library(Path(path))
