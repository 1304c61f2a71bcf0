"""Copies of a data folder: made, looked over, put back, and what is left of a damaged one made startable.

Each runs in a process of its own, never in the broker's: it opens and closes files, which in one process
would drop the locks of connections that have them open.
"""
