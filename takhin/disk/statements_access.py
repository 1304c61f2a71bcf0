"""Every SQL statement about DATA/access.db, which is a database of its own: see access_file.py."""

from __future__ import annotations

CREATE_TOKENS = (
    "CREATE TABLE tokens (token_id TEXT PRIMARY KEY, principal TEXT NOT NULL, digest BLOB NOT NULL UNIQUE, "
    "created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, note TEXT NOT NULL, "
    "last_used_at INTEGER NOT NULL) STRICT, WITHOUT ROWID"
)
CREATE_RULES = (
    "CREATE TABLE rules (principal TEXT NOT NULL, action TEXT NOT NULL, resource TEXT NOT NULL, "
    "pattern TEXT NOT NULL, allow INTEGER NOT NULL, PRIMARY KEY (principal, action, resource, pattern)) "
    "STRICT, WITHOUT ROWID"
)
BEGIN_READ = "BEGIN"
BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
COUNT_OBJECTS = "SELECT count(*) FROM sqlite_schema"
QUICK_CHECK = "PRAGMA quick_check(1)"

TOKENS = (
    "SELECT token_id, principal, digest, created_at, expires_at, note, last_used_at FROM tokens "
    "ORDER BY principal, created_at, token_id"
)
COUNT_TOKENS = "SELECT count(*) FROM tokens"
INSERT = (
    "INSERT INTO tokens (token_id, principal, digest, created_at, expires_at, note, last_used_at) "
    "VALUES (?,?,?,?,?,?,?)"
)
RETURNING = "RETURNING token_id, principal, digest, created_at, expires_at, note, last_used_at"
REMOVE_TOKEN = f"DELETE FROM tokens WHERE token_id = ? {RETURNING}"
REMOVE_TOKENS = f"DELETE FROM tokens WHERE principal = ? {RETURNING}"
NOTE_USE = "UPDATE tokens SET last_used_at = max(last_used_at, ?) WHERE token_id = ?"

RULES = (
    "SELECT principal, action, resource, pattern, allow FROM rules "
    "ORDER BY principal, resource, pattern, action"
)
COUNT_RULES = "SELECT count(*) FROM rules"
PUT_RULE = "INSERT OR REPLACE INTO rules (principal, action, resource, pattern, allow) VALUES (?,?,?,?,?)"
DROP_RULE = "DELETE FROM rules WHERE principal = ? AND action = ? AND resource = ? AND pattern = ?"
