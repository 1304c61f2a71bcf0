"""What the broker refuses for a group with members, and how `--force` gets it done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import click

from takhin.client import Admin
from takhin.errors import GroupNotEmptyError

ATTEMPTS_MAX = 50
"""How often the members are ended: those whose programs run come back within some tenths of a second."""

force_option = click.option(
    "--force",
    is_flag=True,
    help="End the group's members first. Their programs join again, and go on from what is committed then.",
)


async def without_members(
    broker: Admin, group_id: str, change: Callable[[], Awaitable[object]], *, force: bool
) -> None:
    """Make a change that the broker refuses while the group has members. force: end them first."""
    for _ in range(ATTEMPTS_MAX if force else 1):
        try:
            await change()
        except GroupNotEmptyError as error:
            if not force:
                raise click.ClickException(
                    f"{error}; stop their programs, or end their membership with --force"
                ) from error
            await broker.end_members(group_id)
        else:
            return
    raise click.ClickException(f"the members of group {group_id} come back too fast: stop their programs")
