"""Which model a device runs: its files, and following the fleet's version."""
