"""A program that opens streams, says so, and waits to be killed: ADDRESS TAILS PRODUCE_STREAMS."""

from __future__ import annotations

import queue
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from blackbox.clients import batch, connected, consume


def main(address: str, tails: int, produce_streams: int) -> None:
    with connected(address) as stub:
        calls = [consume(stub, "topic", deadline_s=60) for _ in range(tails)]
        for _ in range(produce_streams):
            requests = queue.SimpleQueue()
            requests.put(batch("topic", [b"v"]))
            calls.append(stub.ProduceMessageStream(iter(requests.get, None), timeout=60))
        for call in calls:
            next(call)
        print("streams are open", flush=True)
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
