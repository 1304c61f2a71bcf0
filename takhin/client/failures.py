"""A call that failed, as an error of ours: from a gRPC status, or from a response's own error field.

`takhin.wire.status` has the broker's side of the table. Knows no RPC by name.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import status_pb2

from takhin.client.errors import CallFailedError, NoAnswerError, TransportLimitError
from takhin.errors import FencedMemberError, TakhinError
from takhin.model import TopicPartition
from takhin.wire.status import error_of_code, error_of_status

STATUS_DETAILS = "grpc-status-details-bin"

LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,  # a reset of the stream
    grpc.StatusCode.UNKNOWN,
}
"""The statuses that gRPC itself gives a call whose connection broke."""


def error_of(failed: grpc.aio.AioRpcError, server: str) -> TakhinError:
    """The broker's error if the status carries one; else one of the client's own."""
    for key, value in failed.trailing_metadata() or ():
        if key == STATUS_DETAILS:
            known = error_of_status(status_pb2.Status.FromString(value))
            if known is not None:
                return known
    code, sentence = failed.code(), failed.details() or ""
    about = {"server": server, "status": code.name}
    if code in LOST:
        return NoAnswerError(f"the call to {server} got no answer: {sentence}", **about)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TransportLimitError(f"{server} did not take the call: {sentence}", **about)
    return CallFailedError(f"the call to {server} failed with {code.name}: {sentence}", **about)


def refusal_in(response: Any) -> TakhinError | None:
    """The error that a response carries in its own fields, if any."""
    if not getattr(response, "error_code", 0):
        return None
    names = {"topic", "partition", "group_id", "end_offset"} & set(response.DESCRIPTOR.fields_by_name)
    details = {name: str(getattr(response, name)) for name in names}
    error = error_of_code(response.error_code, response.error, details)
    if isinstance(error, FencedMemberError) and "refused" in response.DESCRIPTOR.fields_by_name:
        error.refused = tuple(TopicPartition(of.topic, of.partition) for of in response.refused)
    return error
