"""The mesh core, sans-I/O: a state machine that a driver feeds with frames, publishes and the time."""
