"""How a consumer reads records:

    consumer.py    the face: `assign`, iterating, `seek`, `commit`
    positions.py   what START, END, COMMITTED, a time and an offset mean: pure rules
    lookup.py      asks the broker for what these rules need
    assignment.py  the partitions that are read
    arrivals.py    whose turn it is
    fetcher.py     one partition's stream, reopened where it broke
    scout.py       finds out which of many partitions have grown
    prefetched.py  one partition's records that were read and not yet handed out

Requests go out by `takhin.client.calls`.
"""
