"""The command line, one file per noun. Client commands load neither SQLite nor any part of the server."""

import os

# gRPC's core would write lines of its own to stderr, beside the one that says what failed. It looks once,
# when grpc is imported, so this stands before every import of it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
