"""`takhin completion`: prints the script by which a shell completes takhin's commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Set up completion in your shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes takhin's commands in SHELL.

    \b
    bash: eval "$(takhin completion bash)"       in ~/.bashrc
    zsh:  eval "$(takhin completion zsh)"        in ~/.zshrc
    fish: takhin completion fish | source        in ~/.config/fish/config.fish

    Topics and groups are completed, too, if the broker answers.
    """  # noqa: D301  click wants the character, to keep the lines that follow as they are
    from takhin.cli.main import COMPLETION_VARIABLE, cli  # noqa: PLC0415  it imports this module

    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"there is no completion for {shell}")
    click.echo(found(cli, {}, "takhin", COMPLETION_VARIABLE).source())
