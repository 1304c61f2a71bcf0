"""How a consumer reads records:

    consumer.py    the face: `assign` or a group's topics, iterating, `seek`, `commit`
    positions.py   what START, END, COMMITTED, a time and an offset mean: pure rules
    lookup.py      asks the broker for what these rules need
    assignment.py  the partitions that are read
    arrivals.py    whose turn it is
    fetcher.py     one partition's stream, reopened where it broke
    scout.py       finds out which of many partitions have grown
    prefetched.py  one partition's records that were read and not yet handed out
    watch.py       finds partitions that assigned topics get later
    commits.py     what is committed, in order, and fenced for a member

and, as a member of a group:

    options.py     what it was told about the group
    membership.py  its stream: join, heartbeats, coming back, leaving
    sharing.py     takes what the group gives, and gives up what it takes away
    starts.py      where it begins to read
    callbacks.py   the user's functions

Requests go out by `takhin.client.calls`.
"""
