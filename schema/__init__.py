"""The tables of a partition's file, and their history: sqlite-utils migrations, shipped as takhin.schema.

The broker imports the numbers below, checksums.py and upgrades.py, and nothing else of it. The migrations
load the standard library's SQLite, which must never open a live file in the broker's process (two SQLites in
one process drop each other's locks), so they run in a child process: `python -m takhin.schema FILE...`.
"""

APPLICATION_ID = 0x54414B48
"""PRAGMA application_id of every Takhin file: "TAKH"."""

VERSION = 7
"""PRAGMA user_version of a file with every migration applied."""

PAGE_BYTES = 16_384
"""The page size in bytes. Records of 1 KiB are written twice as fast as with 4 KiB, small ones as fast."""
