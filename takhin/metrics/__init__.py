"""The broker's numbers for Prometheus, and its health for those who start and stop it, by HTTP.

Reads what the broker, its engine and the meters know; nothing below knows of it. Imported only if
metrics.listen says where to serve.
"""
