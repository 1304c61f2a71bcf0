"""The parts of a server are started in order and stopped in reverse, whatever fails; and its engines."""

import pytest

from takhin.config import OPTIONS
from takhin.errors import StartupError
from takhin.server import ENGINES, Parts

GRACE_SECONDS = 1.5


class Noted:
    """A part that records its calls."""

    def __init__(self, name, notes, *, fails=""):
        self._name = name
        self._notes = notes
        self._fails = fails

    async def start(self):
        self._note("start")

    async def stop(self, grace_seconds):
        assert grace_seconds == GRACE_SECONDS
        self._note("stop")

    def _note(self, verb):
        self._notes.append(f"{verb} {self._name}")
        if verb == self._fails:
            raise StartupError(f"{self._name} cannot {verb}")


def parts(notes, **failing):
    named = [Noted(name, notes, fails=failing.get(name, "")) for name in ("a", "b", "c")]
    return Parts(*named, grace_seconds=GRACE_SECONDS)


async def test_parts_start_in_order_and_stop_backwards():
    """The part that was started last is stopped first, and only once."""
    notes = []
    made = parts(notes)
    await made.start()
    await made.stop()
    await made.stop()
    assert notes == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_part_that_does_not_start_stops_those_before_it():
    """A failed start raises that part's own error and leaves nothing running."""
    notes = []
    made = parts(notes, b="start")
    with pytest.raises(StartupError, match="b cannot start"):
        await made.start()
    await made.stop()
    assert notes == ["start a", "start b", "stop a"]


async def test_a_part_that_does_not_stop_holds_up_no_other():
    """If a part fails to stop, the others are stopped before its error is raised."""
    notes = []
    made = parts(notes, c="stop")
    await made.start()
    with pytest.raises(StartupError, match="c cannot stop"):
        await made.stop()
    assert notes[3:] == ["stop c", "stop b", "stop a"]


def test_every_engine_of_the_setting_is_there():
    """The choices of storage.engine match the server's table."""
    assert set(OPTIONS["storage.engine"].kind.choices) == set(ENGINES)
