"""takhin.v1.TakhinService, put together from the methods of each noun.

Each method decodes, calls the session of its caller, encodes. Errors are raised through: interceptors.py puts
them on the wire.
"""

from __future__ import annotations

from takhin.broker.broker import Broker
from takhin.native import library
from takhin.rpc.access import AccessMethods
from takhin.rpc.calls import Context
from takhin.rpc.gate import Gate
from takhin.rpc.groups import GroupMethods
from takhin.rpc.records import RecordMethods
from takhin.rpc.topics import TopicMethods
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert
from takhin.wire.packed import RECORDS_MIN, PlainRequests


class TakhinService(TopicMethods, RecordMethods, GroupMethods, AccessMethods):
    """All calls of the service.

    gate: decides which of them are let in.
    plain: finds produce requests whose records stay packed; None: the engine wants none.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.gate = Gate(broker)
        self.plain: PlainRequests | None = None
        if broker.records.packs:
            self.plain = PlainRequests(library(), broker.settings.produce, records_min=RECORDS_MIN)

    async def HealthCheck(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        return convert.health(self._session().health())
