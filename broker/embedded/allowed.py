"""Who a client is that was let in, and what follows: whose rights it has, and which sessions are its own.

Decides nothing of who is let in (`gate.py`) and of what is allowed (`broker/permissions.py`).
Assumes that certificate and password were good. On failure: nothing can fail.
"""

from typing import NamedTuple

from broker.identity import Identity
from broker.trust import Holder
from broker.users import User


class Allowed(NamedTuple):
    """A client that is let in. Neither: a program on this device."""

    holder: Holder | None = None
    """Who it is by its certificate."""
    user: User | None = None
    """Who it is by its password."""

    def identities(self, device: str) -> tuple[Identity | None, ...]:
        """Return who must be allowed what it does, each of them; None is a program on the device."""
        known: list[Identity | None] = []
        if self.holder is not None:
            known.append(self.holder.identity)
        if self.user is not None:
            known.append(self.user.identity(device))
        return tuple(known) or (None,)

    def session_name(self, client_id: str) -> str:
        """Return under which name its session is kept.

        A client id is of one's own choice: nobody takes another's session over by it.
        """
        name = client_id
        if self.user is not None:
            name += f"@user:{self.user.name}"
        if self.holder is not None:
            name += f"@{self.holder.identity.name}"
        return f"{name}@" if name == client_id and "@" in client_id else name

    def described(self, client_id: str) -> str:
        """Return who it is, for people."""
        identities = [self.holder.identity] if self.holder is not None else []
        who = [f"{identity.role} {identity.name}" for identity in identities]
        if self.user is not None:
            who.append(f"user {self.user.name} ({self.user.role})" if self.user.name else "nobody")
        return " and ".join(who) or client_id
