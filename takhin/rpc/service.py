"""takhin.v1.TakhinService, put together from the methods of each noun.

Each method decodes, calls the session of its caller, encodes. Errors are raised through: interceptors.py puts
them on the wire.
"""

from __future__ import annotations

from takhin.broker.broker import Broker
from takhin.rpc.access import AccessMethods
from takhin.rpc.calls import Context
from takhin.rpc.gate import Gate
from takhin.rpc.groups import GroupMethods
from takhin.rpc.records import RecordMethods
from takhin.rpc.topics import TopicMethods
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert


class TakhinService(TopicMethods, RecordMethods, GroupMethods, AccessMethods):
    """All calls of the service.

    gate: decides which of them are let in.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.gate = Gate(broker)

    async def HealthCheck(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        return convert.health(self._session().health())
