"""What is refused leaves nothing behind: no request in memory, and no secret in the log."""

from __future__ import annotations

import pytest

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import CALL_S_MAX, connected, create_topic
from hostile import frames
from takhin.v1 import takhin_pb2 as pb

SIZE = 4 << 20
REQUESTS = 100
METHOD = "/takhin.v1.TakhinService/"


@pytest.mark.parametrize("streamed", [False, True], ids=["calls", "stream"])
def test_refused_requests_do_not_stay_in_memory(data_dir, figures, streamed):
    """The traceback of an error keeps the frames that hold a request, until a full collection."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, "topic")
        request = pb.ProduceMessageRequest(topic="topic", record=pb.Record(value=bytes(SIZE)))

        def refuse(number: int) -> None:
            if streamed:
                answers = list(stub.ProduceMessageStream(iter([request] * number), timeout=CALL_S_MAX))
            else:
                calls = [stub.ProduceMessage.future(request, timeout=CALL_S_MAX) for _ in range(number)]
                answers = [call.result() for call in calls]
            assert {answer.error_code for answer in answers} == {pb.ERROR_CODE_RECORD_TOO_LARGE}
            assert len(answers) == number

        refuse(10)
        before = resident_bytes(broker)
        refuse(REQUESTS)
        more = resident_bytes(broker) - before
        figures(f"{REQUESTS} x {SIZE >> 20} MB refused, {streamed=}: {more >> 20:+} MiB")
        assert more < REQUESTS * SIZE / 4


def test_metadata_that_cannot_be_read_is_not_logged(data_dir):
    """It may be a token with something behind it."""
    field = frames.literal("authorization", "Bearer tkn_secret_")
    field = field[:-1] + b"\xe9"  # not UTF-8
    block = frames.headers(METHOD + "ListTopics") + field
    with Broker(data_dir) as broker:
        with frames.connect(broker.address) as connection:
            for stream in (1, 3, 5):
                connection.sendall(
                    frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=stream, payload=block)
                    + frames.frame(
                        frames.DATA, flags=frames.END_STREAM, stream=stream, payload=frames.message(b"")
                    )
                )
            while b"grpc-status" not in (received := connection.recv(1 << 16)):
                assert received
        broker.stop()
        assert "tkn_" not in broker.log()
