"""Looks at a data folder, its disk and its machine, beside a running broker or without one.

A program of its own, never part of a broker. It changes nothing, and opens partitions' files as `takhin
verify` does.
"""
