"""Thousands of devices in one process: real meshes on virtual time, faults, and checkers that know nothing of them."""
