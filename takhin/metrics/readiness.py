"""Whether the broker serves: what /readyz answers."""

from __future__ import annotations

from enum import StrEnum

from takhin.broker.broker import Broker


class Phase(StrEnum):
    """Where the broker is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class Readiness:
    """The last of the server's parts to start and the first to stop: in between, the broker serves."""

    def __init__(self, broker: Broker) -> None:
        self.phase = Phase.STARTING
        self._broker = broker

    async def start(self) -> None:
        self.phase = Phase.SERVING

    async def stop(self, _grace_seconds: float) -> None:
        self.phase = Phase.STOPPING

    @property
    def ready(self) -> bool:
        """True while calls are answered. A trouble, such as a full disk, does not end that."""
        return self.phase is Phase.SERVING

    def reasons(self) -> list[str]:
        """What is wrong now, in sentences: what HealthCheck says."""
        return [] if self.phase is Phase.STARTING else list(self._broker.health().troubles)

    def text(self) -> str:
        """The phase, and a line for each reason not to be content."""
        return "".join(f"{line}\n" for line in (self.phase.value, *self.reasons()))
