"""The one table of errors: code, gRPC status and HTTP status of each. A test holds it against the error tree.

The broker uses it to put an error on the wire, in the response or as a status. Clients use it to raise the
same error again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from takhin import errors
from takhin.v1 import takhin_pb2 as pb

DOMAIN = "takhin"
PREFIX = "ERROR_CODE_"


class ErrorRow(NamedTuple):
    """How one error is put on the wire.

    http: the status code of an HTTP response.
    in_band: the error goes into the response's own error field, in calls that have one. In all other cases
    it is a gRPC status.
    retry_ms: how long RetryInfo asks to wait before trying again, unless the error itself says; 0 where that
    is no use.
    """

    code: pb.ErrorCode.ValueType
    status: grpc.StatusCode
    http: int
    in_band: bool = True
    retry_ms: int = 0

    @property
    def reason(self) -> str:
        """The stable upper-case name of the code, as google.rpc.ErrorInfo has it."""
        return pb.ErrorCode.Name(self.code).removeprefix(PREFIX)


Status = grpc.StatusCode

TABLE: dict[type[errors.TakhinError], ErrorRow] = {
    errors.InvalidArgumentError: ErrorRow(pb.ERROR_CODE_INVALID_ARGUMENT, Status.INVALID_ARGUMENT, 400),
    errors.InvalidTopicNameError: ErrorRow(pb.ERROR_CODE_INVALID_TOPIC_NAME, Status.INVALID_ARGUMENT, 400),
    errors.InvalidGroupIdError: ErrorRow(pb.ERROR_CODE_INVALID_GROUP_ID, Status.INVALID_ARGUMENT, 400),
    errors.InvalidConfigError: ErrorRow(pb.ERROR_CODE_INVALID_CONFIG, Status.INVALID_ARGUMENT, 400),
    errors.InvalidRecordError: ErrorRow(pb.ERROR_CODE_INVALID_RECORD, Status.INVALID_ARGUMENT, 400),
    errors.InvalidBatchError: ErrorRow(pb.ERROR_CODE_INVALID_BATCH, Status.INVALID_ARGUMENT, 400),
    errors.RecordTooLargeError: ErrorRow(pb.ERROR_CODE_RECORD_TOO_LARGE, Status.INVALID_ARGUMENT, 413),
    errors.UnsupportedReplicationError: ErrorRow(
        pb.ERROR_CODE_UNSUPPORTED_REPLICATION, Status.INVALID_ARGUMENT, 400
    ),
    errors.UnknownTopicError: ErrorRow(pb.ERROR_CODE_UNKNOWN_TOPIC, Status.NOT_FOUND, 404),
    errors.UnknownPartitionError: ErrorRow(pb.ERROR_CODE_UNKNOWN_PARTITION, Status.NOT_FOUND, 404),
    errors.UnknownGroupError: ErrorRow(pb.ERROR_CODE_UNKNOWN_GROUP, Status.NOT_FOUND, 404),
    errors.TopicExistsError: ErrorRow(pb.ERROR_CODE_TOPIC_EXISTS, Status.ALREADY_EXISTS, 409),
    errors.ReadOnlyTopicError: ErrorRow(pb.ERROR_CODE_TOPIC_READ_ONLY, Status.FAILED_PRECONDITION, 409),
    errors.GroupNotEmptyError: ErrorRow(pb.ERROR_CODE_GROUP_NOT_EMPTY, Status.FAILED_PRECONDITION, 409),
    errors.OffsetOutOfRangeError: ErrorRow(pb.ERROR_CODE_OFFSET_OUT_OF_RANGE, Status.OUT_OF_RANGE, 400),
    errors.EndOffsetMismatchError: ErrorRow(
        pb.ERROR_CODE_END_OFFSET_MISMATCH, Status.FAILED_PRECONDITION, 409
    ),
    errors.OutOfSequenceError: ErrorRow(pb.ERROR_CODE_OUT_OF_SEQUENCE, Status.FAILED_PRECONDITION, 409),
    errors.LogReplacedError: ErrorRow(pb.ERROR_CODE_LOG_REPLACED, Status.FAILED_PRECONDITION, 409),
    errors.UnauthenticatedError: ErrorRow(
        pb.ERROR_CODE_UNAUTHENTICATED, Status.UNAUTHENTICATED, 401, in_band=False
    ),
    errors.PermissionDeniedError: ErrorRow(
        pb.ERROR_CODE_PERMISSION_DENIED, Status.PERMISSION_DENIED, 403, in_band=False
    ),
    errors.FencedMemberError: ErrorRow(pb.ERROR_CODE_FENCED_MEMBER, Status.ABORTED, 409),
    errors.UnknownMemberError: ErrorRow(pb.ERROR_CODE_UNKNOWN_MEMBER, Status.ABORTED, 409),
    errors.InstanceInUseError: ErrorRow(pb.ERROR_CODE_INSTANCE_IN_USE, Status.FAILED_PRECONDITION, 409),
    errors.GroupFullError: ErrorRow(pb.ERROR_CODE_GROUP_FULL, Status.FAILED_PRECONDITION, 409),
    errors.OutcomeUnknownError: ErrorRow(pb.ERROR_CODE_OUTCOME_UNKNOWN, Status.DEADLINE_EXCEEDED, 504),
    errors.OverloadedError: ErrorRow(
        pb.ERROR_CODE_OVERLOADED, Status.RESOURCE_EXHAUSTED, 429, in_band=False, retry_ms=500
    ),
    errors.StorageFullError: ErrorRow(
        pb.ERROR_CODE_STORAGE_FULL, Status.RESOURCE_EXHAUSTED, 507, in_band=False, retry_ms=5_000
    ),
    errors.PartitionUnavailableError: ErrorRow(
        pb.ERROR_CODE_PARTITION_UNAVAILABLE, Status.UNAVAILABLE, 503, in_band=False, retry_ms=1_000
    ),
    errors.AccessUnavailableError: ErrorRow(
        pb.ERROR_CODE_ACCESS_UNAVAILABLE, Status.UNAVAILABLE, 503, in_band=False, retry_ms=1_000
    ),
    errors.ShuttingDownError: ErrorRow(
        pb.ERROR_CODE_SHUTTING_DOWN, Status.UNAVAILABLE, 503, in_band=False, retry_ms=1_000
    ),
    errors.InternalError: ErrorRow(pb.ERROR_CODE_INTERNAL, Status.INTERNAL, 500, in_band=False),
}

ERRORS = {row.code: error for error, row in TABLE.items()}
CODES = {row.reason: row.code for row in TABLE.values()}
"""The way back: error by code, code by reason."""

NUMBERS = {status: code_pb2.Code.Value(status.name) for status in Status}


def rich_status(error: errors.TakhinError) -> status_pb2.Status:
    """The google.rpc.Status of an error: with ErrorInfo, and BadRequest or RetryInfo where they fit."""
    row = TABLE[type(error)]
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=error.details)
    ]
    if "field" in error.details:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.details["field"], description=str(error)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if row.retry_ms:
        delay = duration_pb2.Duration()
        own_ms = error.retry_ms if isinstance(error, errors.UnavailableError) else 0
        delay.FromMilliseconds(own_ms or row.retry_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=NUMBERS[row.status], message=str(error), details=packed)


def error_of_code(code: int, sentence: str, details: dict[str, str]) -> errors.TakhinError:
    """The error that the broker raised; a RefusedError for a code that only a newer broker knows."""
    kind = ERRORS.get(pb.ErrorCode.ValueType(code), errors.RefusedError)
    error = kind.as_sent(sentence, details)
    if isinstance(error, errors.UnavailableError):
        error.retry_ms = TABLE[kind].retry_ms
    return error


def error_of_status(status: status_pb2.Status) -> errors.TakhinError | None:
    """The error that the broker put into a gRPC status; None if the status is not from a broker."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(info)  # does nothing for a detail of another kind
        detail.Unpack(retry)
    if info.domain != DOMAIN:
        return None
    error = error_of_code(CODES.get(info.reason, -1), status.message, dict(info.metadata))
    if isinstance(error, errors.UnavailableError) and retry.HasField("retry_delay"):
        error.retry_ms = retry.retry_delay.ToMilliseconds()
    return error
