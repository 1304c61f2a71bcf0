"""How the client commands reach a broker, and what they say when that fails.

Knows gRPC's client side and the generated code; knows no command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import click
import grpc

from takhin.config import SERVER_VARIABLE
from takhin.settings import Settings, split_address
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

CALL_SECONDS_MAX = 60
STATUS_DETAILS = "grpc-status-details-bin"
"""Metadata that only the broker sends, with every status of its own."""

CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    # A record may be as large as the broker's limit, which the client need not know.
    ("grpc.max_receive_message_length", -1),
    # A broker that vanished without a word is noticed; the broker allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # How long connecting may take: gRPC's own 20 s are long for one who waits at a prompt.
    ("grpc.min_reconnect_backoff_ms", 5_000),
]


def _checked_address(_context: click.Context, _parameter: click.Parameter, address: str) -> str:
    try:
        _, port = split_address(address)
    except ValueError as error:
        raise click.BadParameter(f"must be {error}, not {address!r}") from None
    if port == 0:
        raise click.BadParameter("port 0 is for brokers; a client needs the one it was given")
    return address


server_option = click.option(
    "--server",
    metavar="HOST:PORT",
    envvar=SERVER_VARIABLE,
    default=Settings().listen,
    callback=_checked_address,
    help=f"The broker's address.  [default: {Settings().listen}; variable: {SERVER_VARIABLE}]",
)


@contextmanager
def connected(server: str) -> Iterator[TakhinServiceStub]:
    """A stub for the broker; what goes wrong in the block is raised as one sentence."""
    with explained(server), grpc.insecure_channel(server, CHANNEL_OPTIONS) as channel:
        yield TakhinServiceStub(channel)


@contextmanager
def explained(server: str) -> Iterator[None]:
    """Turns errors of gRPC and of reading and writing into a ClickException with a sentence."""
    try:
        yield
    except grpc.RpcError as error:
        raise click.ClickException(sentence(error, server)) from error
    except BrokenPipeError:  # main() knows that this is no error
        raise
    except OSError as error:
        raise click.ClickException(f"cannot read the input or write the output: {error.strerror}") from error


def sentence(error: grpc.RpcError, server: str) -> str:
    """What a failed call means to the one who typed the command."""
    code, details = error.code(), error.details()
    metadata = cast("Iterable[tuple[str, object]]", error.trailing_metadata() or ())
    if any(key == STATUS_DETAILS for key, _ in metadata):
        return str(details)  # the broker's own words
    if code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"no broker answers at {server}; start one with `takhin serve`, "
            f"or name another with --server or {SERVER_VARIABLE} ({details})"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the broker at {server} did not answer within {CALL_SECONDS_MAX} s"
    return f"the call to {server} failed with {code.name}: {details}"


def check(response: _Refusable) -> None:
    """Raise the sentence of a response that says the broker refused the request."""
    if response.error:
        raise click.ClickException(response.error)


def counted(number: int, noun: str) -> str:
    """1 record, 2 records."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _Refusable(Protocol):
    @property
    def error(self) -> str: ...
