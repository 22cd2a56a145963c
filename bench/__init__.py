"""Measurements of flockmq beside what its users would pick instead; `python -m bench NAME`. Not shipped."""
