"""A broker in this process whose metrics are asked for, and what its answers say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from takhin.config import load
from takhin.server import Server


@asynccontextmanager
async def server(**settings) -> AsyncIterator[Server]:
    """A broker that keeps everything in memory. settings: a key's dots are written as two underscores."""
    values = {name.replace("__", "."): str(value) for name, value in settings.items()}
    free = {"listen": "127.0.0.1:0", "metrics.listen": "127.0.0.1:0", "storage.engine": "memory"}
    running = Server(load({**free, "shutdown_grace_ms": "1000", **values}, environ={}, file=None).settings)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


async def send(address: str, request: bytes) -> bytes:
    """All that a server answers to some bytes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def get(address: str, path: str, *, method: str = "GET", **headers: str) -> Answer:
    """Ask for a page; each header's name is written with underscores."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    answer = await send(address, "\r\n".join([*lines, "", ""]).encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    return Answer(int(first.split()[1]), dict(field.split(": ", 1) for field in fields), body)


class Metrics:
    """The series of one answer: `metrics.value("takhin_topics")`, with labels as keywords."""

    def __init__(self, text: str, *, openmetrics: bool = True) -> None:
        self.families = list((parse_openmetrics if openmetrics else parse_text)(text))
        self.series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.series[name, frozenset(labels.items())]

    def labels(self, name: str) -> list[dict[str, str]]:
        """Those of each series of a metric."""
        return [dict(labels) for found, labels in self.series if found == name]


async def scrape(running: Server, *, openmetrics: bool = True) -> Metrics:
    accept = "application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain"
    answer = await get(running.metrics.address, "/metrics", Accept=accept)
    assert answer.status == 200
    return Metrics(answer.body.decode(), openmetrics=openmetrics)
