"""A client that behaves, beside others that do not: what it was answered, and how fast."""

from __future__ import annotations

import threading
import time
from typing import Self

import grpc

from blackbox.clients import CALL_S_MAX, batch, connected
from takhin.v1 import takhin_pb2 as pb

TOPIC = "honest"
PAUSE_S = 0.005


class Honest:
    """Produces small batches on a connection of its own for as long as the block lasts."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._served = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.times: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        """Returns when it has its connection and the first answer, so that nobody takes its place before."""
        with connected(self._address) as stub:
            stub.CreateTopic(pb.CreateTopicRequest(name=TOPIC), timeout=CALL_S_MAX)  # if it is not there
        self._thread.start()
        self._served.wait(CALL_S_MAX)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def quantile_ms(self, share: float) -> float:
        return sorted(self.times)[int(len(self.times) * share)] * 1_000

    def line(self) -> str:
        return (
            f"{len(self.times)} honest calls, {len(self.failures)} failed, "
            f"p50 {self.quantile_ms(0.5):.1f} ms, p99 {self.quantile_ms(0.99):.1f} ms, "
            f"most {max(self.times) * 1_000:.0f} ms"
        )

    def _run(self) -> None:
        request = batch(TOPIC, [b"value"] * 10)
        with connected(self._address) as stub:
            while not self._stopping.wait(PAUSE_S):
                begin = time.monotonic()
                try:
                    response = stub.ProduceMessage(request, timeout=CALL_S_MAX)
                    if response.error:
                        self.failures.append(response.error)
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")
                self.times.append(time.monotonic() - begin)
                self._served.set()
