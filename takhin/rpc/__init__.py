"""The only server code that sees gRPC. Decodes, calls a `Session` of the broker, encodes."""

import os

# gRPC's C core would print lines of its own beside the broker's, for instance about an address in use, which
# the broker reports itself. The variable is read when the core is first loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
