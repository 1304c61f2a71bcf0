"""Takhin: a durable message-streaming broker for one machine.

This package root imports nothing of Takhin, so that a client never loads SQLite and a storage tool never
loads gRPC. The version lives in the distribution's metadata (pyproject.toml).
"""

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: reading the metadata takes some ms."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415  see above

    found = globals()[name] = version(__name__)
    return found
