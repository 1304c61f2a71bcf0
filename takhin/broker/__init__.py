"""What a broker does. Adapters such as rpc call a `Session`; an engine stands behind the storage contract.

Knows neither protobuf nor SQL.
"""
