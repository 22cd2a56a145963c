"""Those who attack a device in `bench.attacks`: each a process of its own, paced by its processor time."""
