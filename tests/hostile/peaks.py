"""The most memory that a broker has had since the test asked it to forget."""

from __future__ import annotations

from pathlib import Path

from blackbox.broker_process import Broker, resident_bytes


def forget_peak(broker: Broker) -> int:
    """Let the broker's VmHWM begin again (proc(5), clear_refs); returns its memory now."""
    Path(f"/proc/{broker.pid}/clear_refs").write_text("5")
    return resident_bytes(broker)
