"""The contract suite: the tests that every engine behind `takhin.storage.contract` passes.

The author of an engine runs it with pytest and pytest-asyncio (1.0 or later, in auto or in strict mode; there
is nothing to configure) by a class that makes the engine:

    from takhin.testing.contract import EngineContract

    class TestMyEngine(EngineContract):
        def new_engine(self, folder):
            return MyEngine(folder)

Tests that need a `Capability` which the engine does not name in its `capabilities` are skipped; the reason
says which one. `EngineContract` describes the other hooks: `forgetful_engine`, `clocked_engine`, `check` and
`wait_seconds`.

The helpers that the tests are written with are here too, for further tests of an engine. The package is
imported by nothing else in Takhin, and knows of no engine.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in (
            *("altering", "appends", "compaction", "conditions", "durability", "fences", "growth", "harness"),
            *("numbers", "offsets", "reads", "records", "retention", "sources", "topics", "trims"),
        )
    )
)

from takhin.testing.contract.harness import Life, needs
from takhin.testing.contract.records import (
    ALL,
    NOW,
    Stored,
    as_expected,
    as_stored,
    batch,
    changed,
    clock,
    name_of,
    numbered,
    read_all,
    source_of,
    spec,
    timed,
    under,
)
from takhin.testing.contract.suite import EngineContract

__all__ = [
    "ALL",
    "NOW",
    "EngineContract",
    "Life",
    "Stored",
    "as_expected",
    "as_stored",
    "batch",
    "changed",
    "clock",
    "name_of",
    "needs",
    "numbered",
    "read_all",
    "source_of",
    "spec",
    "timed",
    "under",
]
