"""Bytes that are hardly ever what a method expects, to every method."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import connected, create_topic
from hostile.honest import Honest
from hostile.peaks import forget_peak
from hostile.raw_calls import RawCalls
from takhin.v1 import takhin_pb2 as pb

RSS_MORE_MAX = 100 << 20
SERVICES = (
    pb.DESCRIPTOR.services_by_name["TakhinService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
METHODS = [
    (f"/{service.full_name}/{method.name}", method) for service in SERVICES for method in service.methods
]
TEXTS = ("t", "g", "", ".", "..", "../t", "é", "\x00", "t" * 300, "__activity", "[", "(a+)+$")
NUMBERS = (0, 1, -1, -2, 2, 5, 1 << 20, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
WRONG = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "LOST", ""}
KNOWN_MAX, NEW = 50, 0.1
"""Messages of a method that are there already, and how often another one is made in place of one of them."""


def some_value(chance: random.Random, field: Any, depth: int) -> Any:
    """A value of the field's kind, often at the edge of what may be."""
    if field.message_type is not None:
        return filled(chance, message_factory.GetMessageClass(field.message_type), depth + 1)
    if field.enum_type is not None:
        return chance.choice((0, 1, 99))
    bits = 31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 63
    numbers = [each for each in NUMBERS if -(1 << bits) <= each < 1 << bits]
    if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
        numbers = [each for each in numbers if each >= 0]
    texts = (b"", b"v", b"id" * 8, b"v" * 300) if field.type == field.TYPE_BYTES else TEXTS
    others = {field.CPPTYPE_STRING: texts, field.CPPTYPE_BOOL: (False, True)}
    return chance.choice(others.get(field.cpp_type, numbers))


def filled(chance: random.Random, of: Any, depth: int = 0) -> Any:
    """A message with some of its fields set."""
    message = of()
    for field in of.DESCRIPTOR.fields:
        if depth > 2 or chance.random() < 0.4:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is None:
                getattr(message, field.name)[chance.choice(TEXTS)] = chance.choice(TEXTS)
        elif field.is_repeated:
            values = [some_value(chance, field, depth) for _ in range(chance.choice((0, 1, 3)))]
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(some_value(chance, field, depth))
        else:
            setattr(message, field.name, some_value(chance, field, depth))
    return message


def mutated(chance: random.Random, raw: bytes) -> bytes:
    """The bytes with something wrong: cut, flipped, repeated, or with others between them."""
    data = bytearray(raw)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 8))):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(5)
        if what == 0:
            del data[at:]
        elif what == 1 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif what == 2:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 10)))
        elif what == 3:
            data[at:at] = data[: chance.randrange(100)]
        else:
            data[at:at] = b"\xff" * chance.choice((1, 9, 10, 11))
    return bytes(data)


class Calls:
    """Calls of any method, of messages that are hardly ever what it expects."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._filled: dict[str, list[bytes]] = {path: [] for path, _ in METHODS}

    def make(self, number: int) -> Iterator[tuple[str, list[bytes]]]:
        """So many calls: a path, and the messages of each, one or several as in a stream."""
        for _ in range(number):
            path, method = self._chance.choice(METHODS)
            messages = self._chance.choice((0, 1, 1, 1, 2, 5))
            yield path, [mutated(self._chance, self._message(path, method)) for _ in range(messages)]

    def _message(self, path: str, method: Any) -> bytes:
        """A message of the method's, mostly one that was there before: to fill one takes long."""
        known = self._filled[path]
        if len(known) < KNOWN_MAX or self._chance.random() < NEW:
            message = filled(self._chance, message_factory.GetMessageClass(method.input_type))
            if len(known) == KNOWN_MAX:
                del known[self._chance.randrange(KNOWN_MAX)]
            known.append(message.SerializeToString())
            return known[-1]
        return self._chance.choice(known)


@pytest.mark.parametrize(
    "calls",
    [
        3_000,
        pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)]),
    ],
)
def test_malformed_requests(data_dir, figures, calls):
    """No crash, no INTERNAL, bounded memory, and an honest client does not notice."""
    seed = int(os.environ.get("BLACKBOX_SEED") or random.randrange(1 << 30))
    settings = {"topics_partitions_max": 100, "consume_heartbeat_ms": 50}
    with Broker(data_dir, **settings) as broker, Honest(broker.address) as honest:
        with connected(broker.address) as stub:
            create_topic(stub, "t", 3)
        before, begin = forget_peak(broker), time.monotonic()
        raw = RawCalls(broker.address)
        raw.make(Calls(random.Random(seed)).make(calls))
        raw.close()
        took = time.monotonic() - begin
        more = resident_bytes(broker, "VmHWM") - before
        assert "internal_error" not in broker.log(), seed
    figures(
        f"{calls} malformed calls in {took:.0f} s, seed {seed}: +{more >> 20} MiB, {dict(raw.outcomes)}; "
        f"{honest.line()}"
    )
    assert raw.outcomes.total() == calls
    assert not WRONG & raw.outcomes.keys(), seed
    assert not honest.failures
    assert more <= RSS_MORE_MAX
