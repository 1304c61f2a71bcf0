"""The native library inside SQLite: table functions that take records from requests and make responses.

The library itself, and why there may be none, is in takhin/native.py.
"""

from __future__ import annotations

from functools import cache

import apsw
import structlog

from takhin.errors import StartupError
from takhin.native import Library, NativeMissingError, NativeUnusableError, library

logger = structlog.get_logger()

ENTRY_POINT = "sqlite3_takhin_init"
ADVICE = (
    "install takhin again where there is a C compiler and SQLite's headers (Debian: gcc, libsqlite3-dev), or "
    "set storage.native to auto or off"
)


def is_chosen(setting: str) -> bool:
    """True if records are to go the native way, by the setting storage.native. SQLite is then ready for it.

    Logs a warning if there is a library that cannot be used. Raises StartupError if the setting is "on" and
    there is none that can.
    """
    if setting == "off":
        return False
    try:
        load()
    except NativeMissingError as error:
        if setting == "on":
            raise StartupError(
                f"storage.native is on, and there is no native library: {error}; {ADVICE}"
            ) from error
        if isinstance(error, NativeUnusableError):
            reason = f"{error}; records go through Python, which is slower"
            logger.warning("native_library_unusable", reason=reason)
        return False
    return True


@cache
def load() -> Library:
    """Give every connection that apsw opens from now on the table functions. Raises NativeMissingError.

    Extensions may be loaded by one connection, which has no file, and only until it has loaded this one; the
    SQL function load_extension stays forbidden there, too.
    """
    native = library()
    connection = apsw.Connection(":memory:")
    try:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
        connection.load_extension(str(native.path), ENTRY_POINT)
    except (apsw.Error, AttributeError) as error:  # an SQLite that was built without extensions
        raise NativeUnusableError(f"SQLite does not load {native.path}: {error}") from error
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
        connection.close()
    return native
