"""What all tests share: hypothesis draws the same examples in every run, on every machine."""

from hypothesis import settings

settings.register_profile("flockmq", derandomize=True, deadline=None, database=None)
settings.load_profile("flockmq")
