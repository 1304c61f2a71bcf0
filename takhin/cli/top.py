"""`takhin top`: a broker as it works, in a terminal: rates, topics, groups, and what is wrong.

It owns the terminal while it runs, and gives it back as it was, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import click

from takhin.cli.connection import admin, run, server_option
from takhin.cli.looks import Look, Picture, look, picture
from takhin.cli.output import age, json_option, print_json
from takhin.cli.rows import ESCAPED, print_table
from takhin.cli.streams import STDIN, STDOUT
from takhin.cli.top_screen import GROUP_TITLES, TOPIC_TITLES, group_cells, headline, lines, topic_cells
from takhin.client.contexts import Endpoint
from takhin.errors import TakhinError

if TYPE_CHECKING:
    from rich.live import Live

    from takhin.client import Admin

ANSWER_MS_MAX = 5_000
"""How long an answer may take until the screen says that there is none."""
KEYS_BYTES = 64
"""Bytes of what was typed that are looked at together."""
QUIT = b"qQ\x04"
"""q, and Ctrl-D."""
SECONDS_MAX = 3_600.0


@click.command(short_help="Watch a broker at work.")
@click.option("--once", is_flag=True, help="Print one picture and end, as where stdout is no terminal.")
@click.option(
    "--interval",
    "seconds",
    type=click.FloatRange(0.1, SECONDS_MAX),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long until the next look. Rates are those between two looks.",
)
@json_option
@server_option
def top(*, once: bool, seconds: float, as_json: bool, server: Endpoint) -> None:
    """Watch a broker at work: records per second, topics, lags of groups, and what is wrong. q ends it."""

    async def shown() -> None:
        async with admin(server, timeout_ms=ANSWER_MS_MAX) as broker:
            first = await look(broker)
            if once or as_json or not _has_screen():
                await asyncio.sleep(seconds)
                _print(picture(first, await look(broker)), server, as_json=as_json)
            else:
                await _watch(broker, first, server, seconds)

    run(shown())


def _has_screen() -> bool:
    """True if stdout is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"", "dumb", "unknown"}


def _print(found: Picture, server: Endpoint, *, as_json: bool) -> None:
    if as_json:
        document = found._asdict() | {
            "health": found.health._asdict(),
            "topics": [row._asdict() for row in found.topics],
            "groups": [row._asdict() for row in found.groups],
        }
        print_json(document)
        return
    click.echo(headline(found, server.server))
    for reason in found.health.reasons:
        click.echo(f"- {reason.translate(ESCAPED)}")
    click.echo()
    print_table(TOPIC_TITLES, map(topic_cells, found.topics))
    click.echo()
    print_table(GROUP_TITLES, map(group_cells, found.groups))


async def _watch(broker: Admin, first: Look, server: Endpoint, seconds: float) -> None:
    """Look again and again, and draw, until q is typed. A broker that is away is waited for."""
    shown, before, trouble = picture(None, first), first, ""
    with _screen() as live:
        async with _keys() as quit_wanted:
            while not quit_wanted.is_set():
                _draw(live, shown, server, trouble)
                try:
                    async with asyncio.timeout(seconds):
                        await quit_wanted.wait()
                except TimeoutError:
                    pass
                else:
                    return
                try:
                    now = await _unless(quit_wanted, broker)
                except TakhinError as error:
                    away = age(1_000 * int(time.monotonic() - before.at))
                    trouble = f"no answer for {away}: {error}"
                else:
                    if now is None:
                        return
                    shown, before, trouble = picture(before, now), now, ""


async def _unless(quit_wanted: asyncio.Event, broker: Admin) -> Look | None:
    """A look, or None if the user does not want to wait for it."""
    looking = asyncio.ensure_future(look(broker))
    quitting = asyncio.ensure_future(quit_wanted.wait())
    try:
        await asyncio.wait({looking, quitting}, return_when=asyncio.FIRST_COMPLETED)
        return looking.result() if looking.done() else None
    finally:
        for task in (looking, quitting):
            task.cancel()
        await asyncio.gather(looking, quitting, return_exceptions=True)


def _draw(live: Live, shown: Picture, server: Endpoint, trouble: str) -> None:
    from rich.text import Text  # noqa: PLC0415  rich takes a tenth of a second to import

    width, height = live.console.size
    drawn = lines(shown, server.server, width=width, height=height, trouble=trouble)
    text = Text("\n").join(Text(line.text, line.style, no_wrap=True, overflow="crop") for line in drawn)
    live.update(text, refresh=True)


@contextmanager
def _screen() -> Iterator[Live]:
    """The terminal's second screen, so that what was on the first one is there again afterwards.

    It is written past sys.stdout, which takes nothing after a signal: the terminal would not be given back.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    with open(STDOUT, "w", encoding="utf-8", closefd=False) as terminal:
        console = Console(file=terminal, highlight=False)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield live


@asynccontextmanager
async def _keys() -> AsyncIterator[asyncio.Event]:
    """An event that is set when q is typed. Without a terminal on stdin nothing is read."""
    wanted = asyncio.Event()
    if not os.isatty(STDIN):
        yield wanted
        return
    loop = asyncio.get_running_loop()

    def typed() -> None:
        keys = os.read(STDIN, KEYS_BYTES)
        if not keys or any(key in QUIT for key in keys):  # none: the terminal is closed
            wanted.set()

    former: list[Any] = termios.tcgetattr(STDIN)
    tty.setcbreak(STDIN, termios.TCSADRAIN)
    loop.add_reader(STDIN, typed)
    try:
        yield wanted
    finally:
        loop.remove_reader(STDIN)
        termios.tcsetattr(STDIN, termios.TCSADRAIN, former)
