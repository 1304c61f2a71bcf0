"""What a token may look like: the one check of all places where a client is given one."""

from __future__ import annotations

import re

from takhin.errors import InvalidArgumentError

TOKEN = re.compile("[!-~]+")
"""What a token is made of: a header of HTTP has no room for more (RFC 6750)."""


def checked_token(token: str, where: str) -> str:
    """The token, without the blanks and newlines around it, as a file ends with one.

    where: begins the sentence of the error. Raises InvalidArgumentError if it is no token; the error does not
    repeat it.
    """
    if not isinstance(token, str):
        raise InvalidArgumentError(f"{where} must be a str, not {type(token).__name__}", field="token")
    token = token.strip()
    if not TOKEN.fullmatch(token):
        raise InvalidArgumentError(f"{where} must be one token, without blanks", field="token")
    return token
