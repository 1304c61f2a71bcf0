"""Read-only SQL over a topic, for programs beside a broker or without one: never in the broker's process."""
