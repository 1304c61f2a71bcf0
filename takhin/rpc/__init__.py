"""gRPC: the only server code that sees it. Decodes, asks the broker, encodes."""
