"""Takhin: a durable message-streaming broker for one machine.

This package root imports nothing, so that a client never loads SQLite and a storage tool never loads
gRPC. The version lives in the distribution's metadata (pyproject.toml).
"""
