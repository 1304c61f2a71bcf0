"""The methods about records and logs. A produce stream's order and bounds are in produce_stream.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from weakref import WeakKeyDictionary

from takhin.broker.broker import Broker
from takhin.model import Records
from takhin.rpc.arrivals import Arrival, size_bytes
from takhin.rpc.calls import Context
from takhin.rpc.gzip_answers import asks_for_gzip, bounded
from takhin.rpc.methods import Methods, submit
from takhin.rpc.produce_stream import ProduceStreams
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert, encode
from takhin.wire.packed import count_records


class RecordMethods(Methods):
    """Produces and consumes records."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self._streams = ProduceStreams(broker.settings.produce)
        self._encodings: WeakKeyDictionary[Records, bytes] = WeakKeyDictionary()
        self._packings: WeakKeyDictionary[Records, bytes] = WeakKeyDictionary()

    def drain(self) -> None:
        """Let produce streams read no further; each ends when all it has read is answered."""
        self._streams.drain()

    async def ProduceMessage(
        self, request: pb.ProduceMessageRequest, context: Context
    ) -> pb.ProduceMessageResponse:
        topic = request.topic
        session = self._session()
        session.take_produce(count_records(request), size_bytes())
        pending = await submit(session, request, size_bytes())
        del request  # while it waits, only the queue keeps its records
        appended = await pending.answer()
        return convert.produced(topic, appended, session.count_partitions(topic))

    def ProduceMessageStream(  # type: ignore[override]  # not parsed yet, see arrivals.py
        self, requests: AsyncIterator[Arrival], context: Context
    ) -> AsyncIterator[pb.ProduceMessageResponse]:
        return self._streams.answers(self._session(), requests)

    async def ConsumeMessages(  # type: ignore[override]  # serialised already, see wire/encode.py
        self, request: pb.ConsumeMessagesRequest, context: Context
    ) -> AsyncIterator[bytes]:
        topic, partition = request.topic, request.partition
        compressed = pb.COMPRESSION_ZSTD in request.accept
        if asks_for_gzip(context) and not compressed:
            request.max_bytes = bounded(request.max_bytes)
        session = self._session()
        async with aclosing(session.consume(convert.consume_request(request))) as chunks:
            async for chunk in chunks:
                plain = sent = self._encoded(partition, chunk.records)
                session.count_consumed(topic, records=len(chunk.records.rows), size_bytes=len(plain))
                if compressed:
                    sent = await self._packed(chunk.records, plain)
                    context.disable_next_message_compression()  # by gzip
                yield await encode.consumed(topic, partition, chunk, sent)

    async def GetOffsetsForTimes(
        self, request: pb.GetOffsetsForTimesRequest, context: Context
    ) -> pb.GetOffsetsForTimesResponse:
        queries = await convert.time_queries(request)
        return convert.offsets_at_times(await self._session().offsets_for_times(queries))

    async def DeleteRecords(
        self, request: pb.DeleteRecordsRequest, context: Context
    ) -> pb.DeleteRecordsResponse:
        session = self._session()
        start = await session.delete_records(request.topic, request.partition, request.before_offset)
        return pb.DeleteRecordsResponse(beginning_offset=start)

    def _encoded(self, partition: int, records: Records) -> bytes:
        """The records as bytes, made once for all consumers that share the read."""
        if records.encoded is not None:
            return records.encoded.wire
        encoded = self._encodings.get(records)
        if encoded is None:
            encoded = self._encodings[records] = encode.encoded(partition, records)
        return encoded

    async def _packed(self, records: Records, encoded: bytes) -> bytes:
        """The same compressed, once for all as well."""
        packed = self._packings.get(records)
        if packed is None:
            packed = self._packings[records] = await encode.packed(encoded)
        return packed
