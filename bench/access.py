"""What tokens and rules cost: batch produce and single calls with access.enabled beside the same without.

Both brokers run all the time, and loads are given to them in turn, so that what else the machine does hits
both. Of each round the ratio is taken: of the time, and of the broker's processor time, which a busy machine
disturbs less.
Usage: python -m bench.access [--rounds 20] [--rules 1000] [--longer 4]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc

from bench.common import Running, payload, running, serve_command
from bench.process import cpu_seconds
from takhin.access.rules import checked_rule
from takhin.access.tokens import new_token
from takhin.disk.access_file import AccessFile
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

TOPIC = "orders-of-today"
IN_FLIGHT = 8
LOADS: dict[str, tuple[int, int]] = {
    "batches of 1,000 records of 100 B": (1_000, 150),
    "one record a call": (1, 1_500),
}
"""Records of a request, and requests of a round."""


def folder_with_access(path: Path, rules: int) -> str:
    """Give a data folder a token and rules; returns the token."""
    text, token = new_token("bench", expires_at=0, note="", now=0)
    file = AccessFile(path)
    file.open()
    others = [checked_rule("bench", "write", "topic", f"other-{n}*", allow=bool(n % 2)) for n in range(rules)]
    mine = [checked_rule("bench", action, "topic", "orders*", allow=True) for action in ("write", "admin")]
    file.add_token(token, 1)
    file.change_rules([*others, *mine], [], rules + 2)
    file.close()
    return text


async def load(broker: Running, token: str, records: int, requests: int) -> tuple[float, float]:
    """Seconds, and the broker's processor seconds, of so many requests."""
    metadata = (("authorization", f"Bearer {token}"),)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    data = payload(records, 100)
    request = pb.ProduceMessageRequest(
        topic=TOPIC, records=[pb.Record(value=value) for value in data.values], partition=0
    ).SerializeToString()
    async with grpc.aio.insecure_channel(broker.address, options) as channel:
        if records > 1:
            await TakhinServiceStub(channel).CreateTopic(pb.CreateTopicRequest(name=TOPIC), metadata=metadata)
        produce = channel.unary_unary(
            "/takhin.v1.TakhinService/ProduceMessage", None, pb.ProduceMessageResponse.FromString
        )

        async def send(count: int) -> None:
            for _ in range(count):
                response = await produce(request, metadata=metadata)
                assert not response.error

        await send(10)
        cpu, began = cpu_seconds(broker.pid), time.perf_counter()
        await asyncio.gather(*(send(requests // IN_FLIGHT) for _ in range(IN_FLIGHT)))
        return time.perf_counter() - began, cpu_seconds(broker.pid) - cpu


def line(
    name: str, of: Callable[[tuple[float, float]], float], pairs: list[tuple[tuple[float, float], ...]]
) -> str:
    ratios = sorted(of(with_access) / of(without) for without, with_access in pairs)
    quarter = len(ratios) // 4
    return (
        f"  {name}: {statistics.median(ratios):.3f} times as much with access "
        f"(half of the rounds from {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rules", type=int, default=1_000)
    parser.add_argument("--longer", type=int, default=1, help="so many times as many requests in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        token = folder_with_access(Path(folder, "with"), options.rules)
        without = stack.enter_context(running(serve_command(Path(folder, "without"))))
        within = stack.enter_context(
            running(serve_command(Path(folder, "with"), ["--access-enabled", "--activity-enabled", "false"]))
        )
        for name, (records, requests) in LOADS.items():
            pairs = []
            for number in range(options.rounds):
                order = [without, within] if number % 2 else [within, without]
                found = {
                    each.pid: asyncio.run(load(each, token, records, requests * options.longer))
                    for each in order
                }
                pairs.append((found[without.pid], found[within.pid]))
            print(f"{name}, {options.rounds} rounds, {options.rules} other rules:")
            print(line("time", lambda of: of[0], pairs))
            print(line("the broker's processor time", lambda of: of[1], pairs))


if __name__ == "__main__":
    main()
