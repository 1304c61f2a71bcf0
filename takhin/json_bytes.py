"""How bytes are written in JSON: as text if they are UTF-8, otherwise as {"base64": …}. Owns that rule."""

from __future__ import annotations

import base64


def json_bytes(content: bytes) -> str | dict[str, str]:
    """The bytes as text if they are UTF-8, otherwise as {"base64": …}."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return json_base64(content)


def json_base64(content: bytes) -> dict[str, str]:
    """Any bytes as {"base64": …}."""
    return {"base64": base64.b64encode(content).decode()}
