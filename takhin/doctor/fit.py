"""Settings that are allowed each by itself and do not fit together."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from takhin.doctor.findings import Finding, Level
from takhin.settings import Settings

NO_MORE = (
    ("topics.max_message_bytes", "rpc.message_bytes_max", "no request can carry so large a record"),
    ("groups.session_ms_min", "groups.session_ms", "members that do not say are outside"),
    ("groups.session_ms", "groups.session_ms_max", "members that do not say are outside"),
    ("groups.revoke_ms_min", "groups.revoke_ms", "members that do not say are outside"),
    ("groups.revoke_ms", "groups.revoke_ms_max", "members that do not say are outside"),
    ("topics.partitions_per_topic_max", "topics.partitions_max", "no topic can have so many"),
)
"""The first is to be no more than the second; what follows if it is."""


def settings_fit(settings: Settings) -> Iterator[Finding]:
    """Compare those that bound each other."""
    well = True
    for less, more, consequence in NO_MORE:
        smaller, larger = attrgetter(less)(settings), attrgetter(more)(settings)
        if smaller > larger:
            what = f"{less} ({smaller}) is more than {more} ({larger}): {consequence}"
            yield Finding(Level.WARN, "settings", what, f"lower {less}, or raise {more}")
            well = False
    if well:
        yield Finding(Level.OK, "settings", "those that bound each other fit")
