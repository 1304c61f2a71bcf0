"""Between the messages of takhin.v1 and Takhin's own values and errors."""
