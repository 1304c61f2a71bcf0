"""gRPC: the only server code that sees it. Decodes, asks the broker, encodes."""

import os

# Its C core would print lines of its own beside the broker's, on an address in use for one: what went
# wrong is told once, by us. It asks for this variable when it is first loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
