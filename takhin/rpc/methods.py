"""What methods share: a session for each call's caller, and the one way in for a request's records."""

from __future__ import annotations

from takhin.broker.broker import Broker
from takhin.broker.records import PendingProduce
from takhin.broker.session import Session
from takhin.quotas import Quotas
from takhin.rpc.arrivals import taken_over
from takhin.rpc.calls import running
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from takhin.wire import convert
from takhin.wire.packed import PackedRequest


class Methods(takhin_pb2_grpc.TakhinServiceServicer):
    """The base of the methods of one noun. service.py joins all of them to one servicer."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker

    @property
    def quotas(self) -> Quotas:
        """What callers may use."""
        return self._broker.quotas

    def _session(self) -> Session:
        """The broker as the caller of the running call sees it."""
        return Session(self._broker, running().caller)


async def submit(
    session: Session, message: pb.ProduceMessageRequest | PackedRequest, wire_bytes: int
) -> PendingProduce:
    """Queue the records of a produce request, of a call of its own or of a stream.

    wire_bytes: the size of the message, decompressed. Raises a RefusedError or an UnavailableError for what
    cannot be queued.
    """
    pending = await session.submit(await convert.produce_request(message, wire_bytes, session.check_counts))
    taken_over()
    return pending
