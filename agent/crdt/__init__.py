"""Conflict-free replicated types, sans-I/O: they merge to the same value in any order of arrival.

Every type is immutable or says otherwise. `join` is commutative, associative and idempotent, and
`canonical` gives equal bytes for equal states. States travel whole, so there are no deltas.
"""
