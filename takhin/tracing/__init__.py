"""The broker's traces: spans of its calls, sent to a collector by OpenTelemetry's SDK.

Nothing else in the broker knows of OpenTelemetry. It is imported if traces.enabled is true, and not before.
"""
