"""Test 20: without a valid proof and the right, no handler runs, whatever the method and the call."""

from __future__ import annotations

import grpc
import pytest

from access.support import EVERYTHING, Keeper, bearer, channel_to, methods
from blackbox.clients import refusal
from takhin.access import tokens
from takhin.access.rules import ACTIONS, Need, Resource
from takhin.broker.session import UNSAID
from takhin.rpc.permissions import TABLE
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

STATUS = grpc.StatusCode


def wrong_calls(keeper: Keeper) -> dict[str, list[tuple[str, str]]]:
    """Metadata that proves nothing, by what is wrong with it."""
    good, revoked = keeper.token("good"), keeper.token("revoked")
    keeper.rules(*EVERYTHING, principal="good")
    keeper.rules(*EVERYTHING, principal="revoked")
    keeper.revoke("revoked")
    return {
        "missing": [],
        "empty": [("authorization", "")],
        "only the scheme": [("authorization", "Bearer")],
        "unknown": bearer(tokens.new_text()),
        "expired": bearer(keeper.token("good", expires_at=1)),
        "revoked": bearer(revoked),
        "malformed": bearer("tkn_0"),
        "wrong checksum": bearer(good[:-1] + ("0" if good[-1] != "0" else "1")),
        "wrong scheme": [("authorization", f"Basic {good}")],
        "two": [*bearer(good), *bearer(good)],
        "another header": [("x-authorization", f"Bearer {good}")],
    }


def test_every_method_has_a_row():
    """The table names every method of the interface, of health and of reflection, and no other."""
    assert {method.path for method in methods()} == set(TABLE)


async def test_no_handler_runs_without_a_proof(serving, recorder, tmp_path):
    """Each method refuses each call that proves nothing, with UNAUTHENTICATED, and no handler runs."""
    wrong = wrong_calls(Keeper(tmp_path))
    async with serving() as server, channel_to(server) as channel:
        for method in methods():
            for what, metadata in wrong.items():
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await method.call(channel, metadata)
                assert raised.value.code() is STATUS.UNAUTHENTICATED, (method.path, what)
                found = refusal(raised.value)
                assert (found.reason, found.domain) == ("UNAUTHENTICATED", "takhin")
    assert recorder.called == []


async def test_nothing_tells_unknown_from_wrong(serving, tmp_path):
    """Whatever token does not hold, the answer is the same to the last byte."""
    wrong = wrong_calls(Keeper(tmp_path))
    answers = set()
    async with serving() as server, channel_to(server) as channel:
        for what, metadata in wrong.items():
            if what not in ("missing", "another header"):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await methods()[0].call(channel, metadata)
                answers.add(repr(raised.value.trailing_metadata()) + str(raised.value.details()))
    assert len(answers) == 1


async def test_no_handler_runs_for_a_principal_without_rights(serving, recorder, tmp_path):
    """Each method refuses a principal that no rule is about, with PERMISSION_DENIED."""
    keeper = Keeper(tmp_path)
    token = keeper.token()
    keeper.rules(*EVERYTHING, principal="another")
    async with serving() as server, channel_to(server) as channel:
        for method in methods():
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method.call(channel, bearer(token))
            assert raised.value.code() is STATUS.PERMISSION_DENIED, method.path
            assert refusal(raised.value).reason == "PERMISSION_DENIED"
    assert recorder.called == []


def without(need: Need) -> list[str]:
    """Rules that deny just this right: for a need of any action, all of them."""
    kinds = tuple(Resource) if need.resource is None else (need.resource,)
    return [
        f"deny {action} {kind} {need.name or '*'}"
        for kind in kinds
        for action in ACTIONS[kind]
        if need.action in (None, action)
    ]


async def test_no_handler_runs_without_the_right(serving, recorder, tmp_path):
    """Who has all rights but one that a method needs is refused, for each one that it needs."""
    keeper = Keeper(tmp_path)
    needs = {need for method in methods() for need in TABLE[method.path](method.request)}
    tokens_without = {need: keeper.token(str(need)) for need in needs}
    for need in needs:
        keeper.rules(*EVERYTHING, *without(need), principal=str(need))
    async with serving() as server, channel_to(server) as channel:
        for method in methods():
            for need in (found := list(TABLE[method.path](method.request))):
                metadata = bearer(tokens_without[need])
                if method.path.endswith("ProduceMessageStream"):  # only the message is refused
                    response = await method.call(channel, metadata)
                    assert response.error_code == pb.ERROR_CODE_PERMISSION_DENIED
                    assert (response.topic, response.offset) == ("orders", -1)
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await method.call(channel, metadata)
                assert raised.value.code() is STATUS.PERMISSION_DENIED, (method.path, need)
            assert found
    assert {path for path in recorder.called if not path.endswith("ProduceMessageStream")} == set()


async def test_forbidden_and_unknown_look_alike(serving, tmp_path):
    """A topic that one may not see gets the same answer whether there is one or not, from every method."""
    keeper = Keeper(tmp_path)
    boss, token = keeper.token("boss"), keeper.token()
    keeper.rules(*EVERYTHING, principal="boss")
    keeper.rules("allow read topic mine", "allow write topic mine", "allow group group billing")
    answers = []
    async with serving() as server, channel_to(server) as channel:
        for _ in range(2):
            for method in methods():
                try:
                    answer = str(await method.call(channel, bearer(token)))
                except grpc.aio.AioRpcError as error:
                    answer = f"{error.code()} {error.details()} {error.trailing_metadata()}"
                answers.append((method.path, answer.split("uptime")[0]))
            await methods()[0].call(channel, bearer(boss))  # creates the topic
    half = len(answers) // 2
    different = [(was, now) for was, now in zip(answers[:half], answers[half:], strict=True) if was != now]
    assert different == []


async def test_with_all_rights_every_handler_runs(serving, recorder, tmp_path):
    """The control: with the rights, each handler does run."""
    keeper = Keeper(tmp_path)
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    async with serving() as server, channel_to(server) as channel:
        for method in methods():
            try:
                await method.call(channel, bearer(token))
            except grpc.aio.AioRpcError as error:
                refused = error.code() in (STATUS.UNAUTHENTICATED, STATUS.PERMISSION_DENIED)
                assert not refused, method.path
    assert set(recorder.called) == set(TABLE)


async def test_what_settings_open(serving, recorder, tmp_path):
    """Health and reflection answer without proof if the settings say so, and nothing else does."""
    opened = ("/grpc.health.", "/grpc.reflection.", "/takhin.v1.TakhinService/HealthCheck")
    async with serving(access__open="health,reflection") as server, channel_to(server) as channel:
        for method in methods():
            if method.path.startswith(opened):
                await method.call(channel, bearer("tkn_wrong"))
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await method.call(channel)
    assert recorder.called
    assert all(path.startswith(opened) for path in recorder.called)


async def test_who_learns_what_is_wrong(serving, tmp_path):
    """What is wrong names topics and folders, so only those who may administer learn it."""
    keeper = Keeper(tmp_path)
    boss, token = keeper.token("boss"), keeper.token()
    keeper.rule("allow admin topic *", "boss")
    keeper.rule("allow read topic a")
    async with serving(access__open="health") as server, channel_to(server) as channel:
        server._broker.concerns["x"] = "topic secret is not served"
        stub = TakhinServiceStub(channel)
        for metadata, expected in (
            (bearer(boss), "topic secret is not served"),
            (bearer(token), UNSAID),
            ((), UNSAID),
        ):
            found = await stub.HealthCheck(pb.HealthCheckRequest(), metadata=metadata)
            assert (found.status, list(found.reasons)) == ("degraded", [expected])


async def test_a_method_without_a_row_is_refused(serving, recorder, tmp_path, monkeypatch):
    """A method that the table does not name is refused at run time, to those with all rights, too."""
    keeper = Keeper(tmp_path)
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    for path in list(TABLE):
        monkeypatch.delitem(TABLE, path)
    async with serving() as server, channel_to(server) as channel:
        for method in methods():
            if not method.path.endswith("ProduceMessageStream"):  # it refuses each message
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await method.call(channel, bearer(token))
                assert raised.value.code() is STATUS.PERMISSION_DENIED
    assert [path for path in recorder.called if not path.endswith("ProduceMessageStream")] == []


async def test_failed_attempts_are_limited(serving, tmp_path):
    """Beyond so many in a minute, those who fail are told to wait, and a right token still gets in."""
    keeper = Keeper(tmp_path)
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    method = methods()[2]
    codes = []
    async with serving(access__failures_per_minute_max=5) as server, channel_to(server) as channel:
        for _ in range(8):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method.call(channel, bearer(tokens.new_text()))
            codes.append(raised.value.code())
        await method.call(channel, bearer(token))
    assert codes == [STATUS.UNAUTHENTICATED] * 5 + [STATUS.RESOURCE_EXHAUSTED] * 3
