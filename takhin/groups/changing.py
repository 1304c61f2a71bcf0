"""Members with some fields changed. A step of a large group changes hundreds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from takhin.groups.group import Member

__all__ = ["changed"]

if TYPE_CHECKING:
    from dataclasses import replace as changed  # so that the fields are checked
else:

    def changed(member: Member, **fields: object) -> Member:
        """Return what `dataclasses.replace` would, which takes eight times as long."""
        after = object.__new__(Member)
        vars(after).update(vars(member), **fields)
        return after
