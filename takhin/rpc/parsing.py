"""Requests from their bytes, decompressed and parsed step by step within the limits of a message.

What does not parse is Refused, not an exception: a produce stream answers it like any other request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from takhin.errors import InvalidArgumentError, TakhinError
from takhin.turns import LARGE_BYTES, others_turn
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.compression import BadCompressionError, decompressed, inflated, is_deflated
from takhin.wire.crowd import SMALL_BYTES, Refuse
from takhin.wire.packed import PackedRequest, PlainRequests

Room = Callable[[], Awaitable[None]]
"""Returns when there is room for a request that takes much more memory than its bytes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for a request whose bytes do not parse, where gRPC would answer UNKNOWN, or that is not allowed.

    topic, partition: what it names, if it could be read.
    """

    error: TakhinError
    topic: str = ""
    partition: int = 0


class Parsed(NamedTuple):
    """A request. size_bytes: of what it was parsed from, after all that is compressed was decompressed."""

    request: Any
    size_bytes: int


class Parser:
    """Parses the requests of one method.

    parse: the method's deserializer. refuse: says what is refused of a large request before it is parsed.
    bytes_max: of a request, decompressed. plain: finds produce requests whose records stay packed; None: of
    this method, or here, none do.
    """

    def __init__(
        self,
        parse: Callable[[bytes], Any],
        refuse: Refuse,
        bytes_max: int,
        plain: PlainRequests | None = None,
    ) -> None:
        self._parse = parse
        self._refuse = refuse
        self._bytes_max = bytes_max
        self._plain = plain

    async def __call__(self, raw: bytes, room: Room) -> Parsed:
        """The request. Awaits `room` before it decompresses anything."""
        try:
            if is_deflated(raw):
                await room()
                raw = await inflated(raw, self._bytes_max)
            request = await self._parsed(raw)
            if isinstance(request, pb.ProduceMessageRequest) and request.compression:
                return await self._unpacked(request, room)
        except BadCompressionError as error:
            return _refused(f"the bytes of the request {error}", len(raw))
        except DecodeError as error:
            return _refused(f"the request is no such protobuf message: {error}", len(raw))
        return Parsed(request, len(raw))

    async def _parsed(self, raw: bytes) -> Any:
        """The message. Others have their turn between the steps of a large one. Raises DecodeError."""
        if self._plain is not None:
            if len(raw) > LARGE_BYTES:
                await others_turn()
            if (found := self._plain(raw)) is not None:
                return found
        if len(raw) > SMALL_BYTES:
            if len(raw) > LARGE_BYTES:
                await others_turn()
            if (reason := await self._refuse(raw)) is not None:
                return Refused(InvalidArgumentError(reason))
            if len(raw) > LARGE_BYTES:
                await others_turn()
        message = self._parse(raw)
        if len(raw) > LARGE_BYTES:
            await others_turn()
        return message

    async def _unpacked(self, packed: pb.ProduceMessageRequest, room: Room) -> Parsed:
        """The same request with plain records."""
        frame = packed.compressed_records
        if packed.compression != pb.COMPRESSION_ZSTD:
            return _refused(f"compression {packed.compression} is none that this broker knows", len(frame))
        if packed.records or packed.HasField("record"):
            return _refused("the request has records besides compressed_records", len(frame))
        await room()
        try:
            raw = await decompressed(frame, self._bytes_max)
        except BadCompressionError as error:
            return _refused(f"compressed_records {error}", len(frame))
        return self._whole(packed, await self._parsed(raw), raw)

    def _whole(self, packed: pb.ProduceMessageRequest, request: Any, raw: bytes) -> Parsed:
        """The request that came packed. request: what was in it, from the bytes `raw`."""
        if isinstance(request, Refused):
            return Parsed(request, len(raw))
        if isinstance(request, PackedRequest):
            if (whole := request.within(_plain(packed))) is not None:
                return Parsed(whole, len(raw))
            request = self._parse(raw)
        if any(field.name != "records" for field, _ in request.ListFields()):
            return _refused("compressed_records holds more than records", len(raw))
        request.MergeFrom(_plain(packed))
        return Parsed(request, len(raw))


def _plain(packed: pb.ProduceMessageRequest) -> pb.ProduceMessageRequest:
    """The same message without its compressed records."""
    packed.ClearField("compression")
    packed.ClearField("compressed_records")
    return packed


def _refused(reason: str, size_bytes: int) -> Parsed:
    return Parsed(Refused(InvalidArgumentError(reason)), size_bytes)
