"""Groups of commands: they name the most similar command when they are asked for one that does not exist."""

from __future__ import annotations

from difflib import get_close_matches

import click


class Suggesting(click.Group):
    """Alone it explains itself; of a command that is unknown it says which one was probably meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(1)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name in known or name.startswith("-"):
            return super().resolve_command(ctx, args)
        meant = get_close_matches(name, known, n=1)
        suggestion = f"did you mean {meant[0]!r}?" if meant else f"the commands are {', '.join(known)}"
        raise click.UsageError(f"there is no command {name!r}; {suggestion}", ctx)
