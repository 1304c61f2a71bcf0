"""The table of errors is complete, and its forms agree with each other."""

import inspect
from http import HTTPStatus

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from takhin import errors
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.status import NUMBERS, PREFIX, TABLE, error_of_code, error_of_status, rich_status


def leaves():
    """Every error that can reach a client: the leaves of the tree except those of programs."""
    found = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    inner = {base for cls in found for base in cls.__mro__[1:]}
    of_programs = {errors.CopyError, errors.QueryError, errors.StartupError}
    return {cls for cls in found if issubclass(cls, errors.TakhinError)} - inner - of_programs


def test_every_error_has_one_row():
    """Every error has one row; without it, it would reach the client as INTERNAL."""
    assert set(TABLE) == leaves()


def test_every_code_has_one_error():
    """Codes and errors are one to one, so that a client can turn a code back into an error."""
    codes = [row.code for row in TABLE.values()]
    declared = set(pb.ErrorCode.values()) - {pb.ERROR_CODE_UNSPECIFIED}
    assert len(codes) == len(set(codes))
    assert set(codes) == declared


def test_reason_is_the_code_without_its_prefix():
    """ErrorInfo's reasons and the enum's names are one vocabulary."""
    for row in TABLE.values():
        assert PREFIX + row.reason == pb.ErrorCode.Name(row.code)


def test_status_numbers_are_those_of_grpc():
    """google.rpc.Code and grpc.StatusCode use the same numbers."""
    assert {status: status.value[0] for status in grpc.StatusCode} == NUMBERS


HTTP_BY_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""The mapping of google/rpc/code.proto except for FAILED_PRECONDITION: its 400 would blame the request."""
MORE_EXACT = {errors.RecordTooLargeError: 413, errors.StorageFullError: 507}
CONFLICT = 409


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.__name__)
def test_http_statuses_follow_those_of_grpc(kind):
    """Each is that of Google's table or a more exact one; refusals are 4xx, and 5xx is for what may pass."""
    row = TABLE[kind]
    assert row.http == MORE_EXACT.get(kind, HTTP_BY_STATUS.get(row.status, CONFLICT))
    to_blame = "client" if issubclass(kind, errors.RefusedError | errors.OverloadedError) else "server"
    assert {4: "client", 5: "server"}[HTTPStatus(row.http) // 100] == to_blame


def unpack(status, kind):
    """The detail of one kind, or None."""
    for detail in status.details:
        message = kind()
        if detail.Is(kind.DESCRIPTOR):
            detail.Unpack(message)
            return message
    return None


def test_out_of_range_carries_both_ends():
    """A client that fell behind gets the start and end of the log."""
    status = rich_status(errors.OffsetOutOfRangeError("orders", 3, 99, 5, 42))
    info = unpack(status, error_details_pb2.ErrorInfo)
    assert (status.code, info.domain, info.reason) == (11, "takhin", "OFFSET_OUT_OF_RANGE")
    assert dict(info.metadata) == {
        "topic": "orders",
        "partition": "3",
        "offset": "99",
        "beginning_offset": "5",
        "end_offset": "42",
    }


def test_bad_request_names_the_field():
    """An error about one field is a BadRequest too."""
    status = rich_status(errors.InvalidArgumentError("max_bytes must be…", field="max_bytes", value=-1))
    assert unpack(status, error_details_pb2.BadRequest).field_violations[0].field == "max_bytes"


@pytest.mark.parametrize("error", [errors.OverloadedError("full"), errors.StorageFullError("full")])
def test_overload_says_when_to_try_again(error):
    """RESOURCE_EXHAUSTED comes with RetryInfo."""
    status = rich_status(error)
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert unpack(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() >= 100


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_it_was(kind):
    """In band or as a status, a client raises the broker's error with its kind, sentence and values."""
    sent = kind.as_sent("a sentence", {"topic": "orders", "end_offset": "7"})
    for came in (
        error_of_status(rich_status(sent)),
        error_of_code(TABLE[kind].code, str(sent), sent.details),
    ):
        assert (type(came), str(came), came.details) == (kind, "a sentence", sent.details)
        assert getattr(came, "retry_ms", 0) == TABLE[kind].retry_ms


def test_an_error_of_a_newer_broker_is_a_refusal():
    """A code that this client does not know is still a refusal, in the broker's words."""
    error = error_of_code(4_711, "not on Sundays", {})
    assert (type(error), str(error)) == (errors.RefusedError, "not on Sundays")


def test_a_status_of_somebody_else_is_no_error_of_ours():
    """A proxy's status has no ErrorInfo of our domain, and is not one of our errors."""
    assert error_of_status(rich_status(errors.ShuttingDownError())) is not None
    assert error_of_status(status_pb2.Status(code=14, message="upstream connect error")) is None
