"""What becomes of a commit of several partitions, some of which did not take it."""

from __future__ import annotations

from collections.abc import Mapping

from takhin.errors import FencedMemberError
from takhin.model import TopicPartition


def raise_any(outcomes: Mapping[TopicPartition, BaseException | None]) -> None:
    """Raise the error of those that have failed. Where all of these were fenced, it names every one."""
    failed = {at: error for at, error in outcomes.items() if error is not None}
    for error in failed.values():
        if not isinstance(error, FencedMemberError):
            raise error
    if failed:
        raise FencedMemberError(str(next(iter(failed.values()))), refused=tuple(failed))
