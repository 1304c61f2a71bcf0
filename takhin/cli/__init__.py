"""The command line, one file per noun. Client commands load neither SQLite nor any part of the server."""

import os

# Keep gRPC's core from writing its own lines to stderr, beside the one that says what failed. It reads the
# variable once, when grpc is imported, so this stands before every import of grpc.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
