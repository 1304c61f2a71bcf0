"""Bytes in JSON: text where they are UTF-8, {"base64": …} where they are not. Owns that rule."""

from __future__ import annotations

import base64


def json_bytes(content: bytes) -> str | dict[str, str]:
    """Text if it can be."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return json_base64(content)


def json_base64(content: bytes) -> dict[str, str]:
    """For bytes that are known not to be text."""
    return {"base64": base64.b64encode(content).decode()}
