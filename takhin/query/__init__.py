"""Read-only SQL over a topic. A program beside a broker, or without one: never in its process."""
