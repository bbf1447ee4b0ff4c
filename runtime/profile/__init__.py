"""The instrument: how long a caller waits, for what, and at what price in memory and energy."""
