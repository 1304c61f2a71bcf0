"""The suite as one class, from which the author of an engine inherits."""

from __future__ import annotations

from takhin.testing.contract.altering import Altering
from takhin.testing.contract.appends import Appends
from takhin.testing.contract.compaction import Compaction
from takhin.testing.contract.conditions import Conditions
from takhin.testing.contract.durability import Durability
from takhin.testing.contract.fences import Fences
from takhin.testing.contract.growth import Growth
from takhin.testing.contract.numbers import Numbers
from takhin.testing.contract.offsets import Offsets
from takhin.testing.contract.reads import Reads
from takhin.testing.contract.retention import Retention
from takhin.testing.contract.sources import Sources
from takhin.testing.contract.topics import Topics
from takhin.testing.contract.trims import Trims


class EngineContract(
    Altering,
    Appends,
    Compaction,
    Conditions,
    Durability,
    Fences,
    Growth,
    Numbers,
    Offsets,
    Reads,
    Retention,
    Sources,
    Topics,
    Trims,
):
    """Every test of the contract. Inherit from it in a class named `Test…`, and override its hooks.

    new_engine(folder): returns the engine to test, not open yet; has to be overridden.
    forgetful_engine(folder): returns one whose logs remember three producers and three sources, for the
    tests of these bounds.
    clocked_engine(folder, clock): returns one that goes by that clock, for the tests of retention.
    check(folder): looks over what a closed engine left; by default it does nothing.
    wait_seconds: how long a test waits for what must happen before it fails.
    """
