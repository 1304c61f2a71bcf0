"""The gate: who a call is from, whether it may be made, and what becomes of open streams when that changes.

The interceptor asks `admit` before a message is read, and `check` for each message before the handler gets
it. A stream that is open is looked at again after each change of tokens and rules, and when its token has
expired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from takhin.access.principals import parsed_mapping, principal_of
from takhin.access.rules import Need, Rights
from takhin.access.tokens import Token, is_token
from takhin.broker.broker import Broker
from takhin.errors import AccessUnavailableError, PermissionDeniedError, TakhinError, UnauthenticatedError
from takhin.model import CERTIFICATE, OWN_SOCKET, SHARED_SOCKET, Caller
from takhin.quotas import address_of
from takhin.rpc.attempts import Attempts
from takhin.rpc.calls import Call, Context, running
from takhin.rpc.permissions import BEFORE_READING, OPEN, SOMETHING, TABLE
from takhin.sentences import shown
from takhin.turns import in_turns, others_turn

AUTHORIZATION = "authorization"
SCHEME = "bearer"
UNIX = "unix:"
OWNER_ONLY = 0o600
NAMES_OF_CERTIFICATE = ("x509_subject_alternative_name", "x509_common_name")
"""Of gRPC's auth context. Where a certificate has the first, the second does not count."""
NEEDS_AT_ONCE = 200
"""Needs that are judged in one turn of the loop: one takes 0.1 to 50 µs."""
ENDED_AT_ONCE, ENDED_PAUSE_SECONDS = 20, 0.002
"""Streams that are ended in one turn of the loop, at 0.2 ms each, and the time until the next ones are."""
UNREAD_SECONDS = 0.5
"""How long a stream that has to end waits for its client to read what is being written to it."""

UNKNOWN_CALLER = (
    "the call has to prove who makes it: by a token (metadata `authorization: Bearer …`) or by a client "
    "certificate"
)
WRONG_TOKEN = "the token is not valid: it is unknown, was revoked, or has expired"  # noqa: S105  a sentence


class Passage:
    """A stream that was let in, for as long as it is open.

    needs: what it needs besides a valid proof, as far as its messages say so yet. refusal: why it has to end.
    writing: a response is being written. If the task is cancelled then, gRPC may refuse the status.
    """

    __slots__ = ("caller", "needs", "refusal", "task", "writing")

    def __init__(self, caller: Caller, task: asyncio.Task[Any], needs: tuple[Need, ...]) -> None:
        self.caller = caller
        self.needs = needs
        self.refusal: TakhinError | None = None
        self.writing = False
        self.task: asyncio.Task[Any] | None = task

    def end(self, error: TakhinError) -> None:
        """End the stream with an error: now, or when what is being written is, or soon in any case."""
        if self.refusal is None:
            self.refusal = error
            if self.writing:
                asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._cancel)
            else:
                self._cancel()

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Gate:
    """Lets calls in. Where access.enabled is false, all of them."""

    def __init__(self, broker: Broker) -> None:
        self._access = access = broker.access
        self._activity = broker.activity
        self._meters = broker.meters
        settings = broker.settings.access
        self._unix_principal = settings.unix_principal
        own = int(broker.settings.socket_mode, 8) == OWNER_ONLY
        self._unix_proof = OWN_SOCKET if own else SHARED_SOCKET
        self._mappings = [parsed_mapping(text) for text in settings.certificate_principals]
        self._open = tuple(beginning for word in settings.open for beginning in OPEN[word])
        self._attempts = Attempts(settings.failures_per_minute_max)
        self._streams: set[Passage] = set()
        self._version = access.version
        self._looking: asyncio.Task[None] | None = None
        access.on_look.append(self._look_at_streams)

    def admit(self, method: str, context: Context) -> None:
        """Find out who makes the running call, before any message of it is read.

        Raises UnauthenticatedError, PermissionDeniedError, OverloadedError, AccessUnavailableError.
        """
        if not self._access.enabled:
            return
        call = running()
        if self._is_open(method):
            with suppress(AccessUnavailableError):  # it answers all the same, as to one who proves nothing
                call.caller = self._identity(call, context) or call.caller
            return
        caller = self._identity(call, context)
        if caller is None:
            presented = _presented(context)
            reason = _wrong(presented)
            self._activity.denied(call.caller, method, "UNAUTHENTICATED")
            self._meters.auth_failures.add(reason)
            self._attempts.failed(address_of(call.caller.address), method, reason)
            raise UnauthenticatedError(WRONG_TOKEN if presented else UNKNOWN_CALLER)
        call.caller = caller
        self._require(BEFORE_READING.get(method, SOMETHING), self._access.rights_of(caller), method)

    @contextmanager
    def passage(self, method: str) -> Iterator[Passage]:
        """The running call, which was admitted, as a stream that ends when it is no longer allowed."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  grpc.aio runs every handler in a task
        passage = Passage(running().caller, task, BEFORE_READING.get(method, SOMETHING))
        if self._access.enabled and not self._is_open(method):
            self._streams.add(passage)
        try:
            yield passage
        finally:
            passage.task = None
            self._streams.discard(passage)

    async def check(self, method: str, request: Any, passage: Passage | None = None) -> None:
        """Raise PermissionDeniedError if the running call may not do what this message asks for.

        passage: of a stream, which needs that for as long as it is open. UnauthenticatedError if the caller's
        proof no longer holds: the message may have come long after the call. AccessUnavailableError.
        """
        if not self._access.enabled or self._is_open(method):
            return
        needs = TABLE.get(method)
        if needs is None:
            raise PermissionDeniedError(f"nobody may call {method}: the broker does not know what it needs")
        version = None
        while version != self._access.version:  # it may change while others have their turn
            version = self._access.version
            wanted = await self._checked(needs(request), method)
        if passage is not None and method not in BEFORE_READING:
            others = {need.resource for need in wanted}
            passage.needs = (*(need for need in passage.needs if need.resource not in others), *wanted)

    async def _checked(self, wanted: Iterable[Need], method: str) -> tuple[Need, ...]:
        """All that is wanted, each once, if the running call may do it now."""
        caller = running().caller
        if not self._access.is_valid(caller):
            raise self._lost()
        rights = self._access.rights_of(caller)
        if isinstance(wanted, tuple):
            self._require(wanted, rights, method)
            return wanted
        kept: dict[Need, None] = {}
        async for need in in_turns(wanted, at_once=NEEDS_AT_ONCE):
            self._require((need,), rights, method)
            kept[need] = None
        return tuple(kept)

    def _is_open(self, method: str) -> bool:
        return method.startswith(self._open)

    def _require(self, needs: Iterable[Need], rights: Rights, method: str) -> None:
        for need in needs:
            if not rights.permit(need):
                caller = running().caller
                self._activity.denied(caller, method, "PERMISSION_DENIED", need)
                self._meters.access_denied.add(str(need.action or "any"))
                raise _denied(caller, need)

    # Who it is

    def _identity(self, call: Call, context: Context) -> Caller | None:
        """Who makes a call; None if it proves nothing, or has a token that does not hold."""
        address = call.caller.address
        if presented := _presented(context):
            token = self._token(presented)
            return None if token is None else Caller(token.principal, address, token.token_id)
        if call.peer.startswith(UNIX):
            return Caller(self._unix_principal, address, self._unix_proof)
        principal = principal_of(_certified(context), self._mappings)
        return None if principal is None else Caller(principal, address, CERTIFICATE)

    def _token(self, presented: list[str]) -> Token | None:
        text = _text(presented)
        return None if text is None else self._access.token(text)

    # Open streams

    def _look_at_streams(self) -> None:
        """Look at the streams, if the rights or the proof of one of them may have gone."""
        valid = self._access.is_valid
        lost = any(not valid(passage.caller) for passage in self._streams if passage.refusal is None)
        if (lost or self._version != self._access.version) and self._looking is None:
            self._looking = asyncio.create_task(self._look_at_each())

    async def _look_at_each(self) -> None:
        """End the streams that are no longer allowed: some at a time, so that all others have their turns."""
        ended = 0
        try:
            self._version = self._access.version
            for passage in list(self._streams):
                error = await self._refusal(passage)
                if error is not None and passage.refusal is None:
                    passage.end(error)
                    ended += 1
                    if ended % ENDED_AT_ONCE == 0:
                        await asyncio.sleep(ENDED_PAUSE_SECONDS)
        finally:
            self._looking = None

    async def _refusal(self, passage: Passage) -> TakhinError | None:
        """Why a stream has to end now; None if it may go on."""
        if not self._access.is_valid(passage.caller):
            return self._lost()
        try:
            rights = self._access.rights_of(passage.caller)
        except AccessUnavailableError as error:
            return error
        async for need in in_turns(passage.needs, at_once=NEEDS_AT_ONCE):
            if not rights.permit(need):
                return _denied(passage.caller, need)
        await others_turn()
        return None

    def _lost(self) -> TakhinError:
        trouble = self._access.trouble
        return UnauthenticatedError(WRONG_TOKEN) if trouble is None else AccessUnavailableError(trouble)


def _denied(caller: Caller, need: Need) -> PermissionDeniedError:
    details = {} if need.resource is None or need.name is None else {str(need.resource): need.name[:255]}
    return PermissionDeniedError(f"{shown(caller.principal)} may not {need}", **details)


def _presented(context: Context) -> list[str]:
    """What a call has as authorization."""
    return [str(value) for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]


def _text(presented: list[str]) -> str | None:
    """The token in what a call has as authorization; None if that is something else, or there are several."""
    scheme, _, text = presented[0].partition(" ")
    return text.strip() if len(presented) == 1 and scheme.lower() == SCHEME else None


def _wrong(presented: list[str]) -> str:
    """What is wrong with what a call presents, for logs and meters alone: the caller is not told."""
    if not presented:
        return "nothing presented"
    text = _text(presented)
    return "unknown, revoked or expired" if text is not None and is_token(text) else "not a token"


def _certified(context: Context) -> list[str]:
    """The names in the client's certificate, which the connection has verified."""
    found = context.auth_context()
    for key in NAMES_OF_CERTIFICATE:
        if names := found.get(key):
            return [name.decode(errors="replace") for name in names]
    return []
