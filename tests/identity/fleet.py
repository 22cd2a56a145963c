"""A fleet's authority in a folder, and members of it, at any time one likes."""

from broker.authority import LIFE_DAYS, Authority
from broker.identity import Moment, Role
from broker.trust import TlsAt, Trust

T_MS = 1_900_000_000_000
"""March 2030: neither the system's clock nor 1970."""


class Fleet:
    """Its authority stands in `directory/ca`, each member in `directory/NAME`."""

    def __init__(self, directory, name="town", now_ms=T_MS):
        self.directory = directory
        self.authority = directory / "ca"
        self.now_ms = now_ms
        Authority.create(self.authority, name, now_ms)

    def join(self, name, role=Role.DEVICE, *, days=LIFE_DAYS, at_ms=None):
        """The identity folder of a new member."""
        folder = self.directory / name
        now_ms = self.now_ms if at_ms is None else at_ms
        with Authority.at(self.authority) as authority:
            authority.equip(folder, name, role, now_ms, days=days)
        return folder

    def renew(self, name, at_ms):
        with Authority.at(self.authority) as authority:
            return authority.renew(name, at_ms).pem.encode()

    def revoke(self, name):
        """The revocation list that says it."""
        with Authority.at(self.authority) as authority:
            authority.revoke(name, self.now_ms)
            return authority.revocation_list(self.now_ms)

    def trust(self, name, clock=None):
        """What a member trusts; it joins now unless it has."""
        folder = self.directory / name
        if not folder.exists():
            self.join(name)
        return Trust(folder, clock or (lambda: Moment(self.now_ms, synchronised=True)))

    def tls(self, name, clock=None):
        """Where a node of that name listens."""
        return TlsAt(self.trust(name, clock), "127.0.0.1", 0)
