"""The compiled part of clients: what is done for each record, in C. It is optional.

Its sources are in native/client/. It is built when the package is installed, where there is a C compiler;
without it the same is done in Python, more slowly, and so it is where TAKHIN_STORAGE_NATIVE is "off".

Each name is None where there is no compiled part:

unread: a function of a TopicPartition, the bytes of a consume response, and an end offset in place of its
own, or None. Gives its records as `takhin.client.unread.Unread`; None if they are not ordinary.
Steps: a class, what takhin/client/consuming/iterating.py iterates by.
module: all of it, with the classes of takhin/client/producing/per_record.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from takhin.client.model import Record

NAME = "takhin.client._compiled"
SWITCH = "TAKHIN_STORAGE_NATIVE"
"""The variable of the setting storage.native: whoever turns C off for a broker means clients, too."""
VERSION = 2
"""That of native/client/client.h. A module of another one is left over from another version of Takhin."""

logger = logging.getLogger("takhin.client")


def _found() -> Any:
    if os.environ.get(SWITCH) == "off":
        return None
    try:
        found = import_module(NAME)
    except (ImportError, AttributeError) as error:  # one of another version may look for what is not there
        if not isinstance(error, ModuleNotFoundError) or error.name != NAME:  # else it was not built
            logger.warning("the compiled part cannot be loaded, and Python does its work: %s", error)
        return None
    if getattr(found, "VERSION", None) != VERSION:
        logger.warning("the compiled part is one of another version: install takhin again")
        return None
    if found.Record is not Record:  # that of an earlier import of takhin, or of another interpreter
        return None
    return found


module: Any = _found()
unread: Callable[[tuple[str, int], bytes, int | None], Any] | None = getattr(module, "unread", None)
Steps: Callable[..., Any] | None = getattr(module, "Steps", None)
