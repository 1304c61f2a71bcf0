"""What the methods of all nouns share: a session for each call's caller, and how a request is read."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote

from takhin.broker.broker import Broker
from takhin.broker.session import Session
from takhin.model import Caller, ProduceRequest
from takhin.rpc.interceptors import Context
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from takhin.wire import convert

ANONYMOUS = "anonymous"
PEERS_REMEMBERED = 4_096


class Methods(takhin_pb2_grpc.TakhinServiceServicer):
    """The base of the methods of one noun. service.py joins all of them to one servicer."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker

    def _session(self, context: Context) -> Session:
        """The broker as the caller of this call sees it."""
        return Session(self._broker, caller_of(context.peer()))


@lru_cache(PEERS_REMEMBERED)
def caller_of(peer: str) -> Caller:
    """The caller at the other end of a connection. gRPC names it ipv4:HOST:PORT or ipv6:%5BHOST%5D:PORT."""
    peer = unquote(peer)
    scheme, _, address = peer.partition(":")
    return Caller(ANONYMOUS, address if scheme in ("ipv4", "ipv6") else peer)


def produce_request(session: Session, message: pb.ProduceMessageRequest) -> ProduceRequest:
    """The message as a value. Its records are counted before they are converted."""
    session.check_record_count(len(message.records))
    return convert.produce_request(message)
