"""Copies of a data folder: backup, verify, restore, and recover, which makes damaged logs startable.

Each runs in a process of its own, never in the broker's: it opens and closes files, which would drop the
locks of connections that the same process has to them. Names, SQL and checks of the format are in
takhin/disk.
"""
