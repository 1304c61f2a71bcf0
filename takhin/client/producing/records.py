"""One record as bytes of a request, and what is refused before the record waits for anything."""

from __future__ import annotations

from datetime import datetime

from takhin.client.model import Headers, ms_of
from takhin.errors import InvalidRecordError, RecordTooLargeError
from takhin.settings import INT32_MAX
from takhin.sizes import size_bytes
from takhin.topic_configs import MAX_MESSAGE_BYTES
from takhin.wire.requests import ONLY_VALUE_HEADS
from takhin.wire.requests import record as encoded

OPTIONAL_BYTES = (bytes, type(None))


class RecordEncoder:
    """Encodes the records of one topic. max_message_bytes: the topic's max.message.bytes.

    plain_bytes_max: a record of so many bytes, of nothing but a value and perhaps a key, need not come here.
    """

    def __init__(self, topic: str, max_message_bytes: int) -> None:
        self._topic = topic
        self._max_message_bytes = max_message_bytes
        self._prepared_bytes_max = min(max_message_bytes, len(ONLY_VALUE_HEADS) - 1)
        self.plain_bytes_max = min(max_message_bytes, INT32_MAX)

    def encode(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> bytes:
        """The record as bytes of a request.

        Raises InvalidRecordError, RecordTooLargeError, and InvalidArgumentError for a bad timestamp.
        """
        if (
            key is None
            and type(value) is bytes
            and (size := len(value)) <= self._prepared_bytes_max
            and timestamp is None
            and not headers
        ):
            return ONLY_VALUE_HEADS[size] + value  # the same as below, for most records
        if not isinstance(value, OPTIONAL_BYTES) or not isinstance(key, OPTIONAL_BYTES):
            raise InvalidRecordError(
                "a record's value and key are bytes or None, "
                f"not {type(value).__name__} and {type(key).__name__}"
            )
        if headers:
            _check_headers(headers)
        record = encoded(key, value, headers, 0 if timestamp is None else ms_of(timestamp))
        # Only headers count for more than their encoded bytes; without them, short is short enough.
        if headers or len(record) > self._max_message_bytes:
            self._check_size(value, key, headers)
        return record

    def fits(self, value: bytes | None, key: bytes | None, headers: Headers) -> bool:
        """True if a record is not larger than the topic's records may be."""
        return size_bytes([key], [value], [headers]) <= self._max_message_bytes

    def _check_size(self, value: bytes | None, key: bytes | None, headers: Headers) -> None:
        if not self.fits(value, key, headers):
            size = size_bytes([key], [value], [headers])
            raise RecordTooLargeError(
                f"the record has {size} bytes; the {MAX_MESSAGE_BYTES} of topic {self._topic!r} is "
                f"{self._max_message_bytes}",
                size_bytes=size,
                max_message_bytes=self._max_message_bytes,
            )


def _check_headers(headers: Headers) -> None:
    for number, header in enumerate(headers):
        match header:
            case (str() as key, bytes()) if key and _is_utf8(key):
                pass
            case _:
                raise InvalidRecordError(
                    f"header {number} must be a pair of a key, UTF-8 and not empty, and a value, bytes; "
                    f"it is {header!a}"
                )


def _is_utf8(text: str) -> bool:
    """False for a text with a lone surrogate, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
