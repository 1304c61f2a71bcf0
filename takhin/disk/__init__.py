"""The format on disk: every name in a data folder, every SQL statement, and how a partition's file is opened.

The engine, the copies and the queries all stand on it; it knows none of them.
"""
