"""The local users of one device: who may come with a name and a password, and as what.

Decides what a users file is: a line for each user, with name, role and salted hash, in a file that only its owner may
read. And what a file that cannot be used means: nobody comes in by a password until it can be, and that is told.
Roles are those of certificates. A user of role `device` is a program of this device and speaks for it, as a program
without a name does where there are no users.

Assumes that the file is put in place whole, as `flockmq user` does. On failure: `UsersUnusable`, with the line and the
way out; never with a hash.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.errors import SecretMissing, SecretUnusable, UsersUnusable
from broker.identity import Identity, Role
from broker.passwords import is_hash
from broker.secret_file import read_private, write_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "ANYBODY",
    "Anonymous",
    "User",
    "Users",
    "UsersAt",
    "change_users",
    "check_user_name",
    "read_users",
]

USERS_MAX: Final = 256
"""People and programs of one device; a fleet's are told apart by certificates. Guess."""
_FILE_BYTES_MAX: Final = 64 * 1024
"""A user has 200 bytes at most."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_HEADING: Final = (
    "# Name, role and salted hash of this device's users. `flockmq user` changes it.\n"
)


class User(NamedTuple):
    """Somebody with a name and a password."""

    name: str
    role: Role
    stored: str = ""
    """The hash of the password."""

    def identity(self, device: str) -> Identity:
        """Who that is to the topic contract, at this device."""
        return Identity("", device if self.role is Role.DEVICE else self.name, self.role)


ANYBODY: Final = User("", Role.VIEWER)
"""Who comes without a name, where that is allowed for looking on."""


class Anonymous(StrEnum):
    """What becomes of plain clients without a user name, where there are users."""

    REFUSED = "refused"
    VIEWER = "viewer"
    DEVICE = "device"


def read_users(path: Path) -> dict[str, User]:
    """The users of a file, by name.

    Raises:
        UsersUnusable: It is not there, cannot be read, others may read it, or a line of it is none.
    """
    try:
        content = read_private(path, "users file", bytes_max=_FILE_BYTES_MAX)
    except SecretMissing:
        raise UsersUnusable(
            f"there is no users file {path}; `flockmq user add NAME --file {path}` makes it"
        ) from None
    except SecretUnusable as error:
        raise UsersUnusable(str(error)) from None
    users: dict[str, User] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user = _user(line.split())
        if user is None:
            raise UsersUnusable(
                f"line {number} of the users file {path} is damaged; remove it, and `flockmq user add` its user anew"
            )
        if user.name in users:
            raise UsersUnusable(
                f"line {number} of the users file {path} names {user.name} once more; remove one"
            )
        users[user.name] = user
    if len(users) > USERS_MAX:
        raise UsersUnusable(f"the users file {path} has {len(users)} users, at most {USERS_MAX}")
    return users


def _user(fields: list[str]) -> User | None:
    if len(fields) != 3 or not _NAME.match(fields[0]) or not is_hash(fields[2]):
        return None
    try:
        return User(fields[0], Role(fields[1]), fields[2])
    except ValueError:
        return None


def check_user_name(name: str) -> None:
    """See that a user may have this name.

    Raises:
        UsersUnusable: None may.
    """
    if not _NAME.match(name):
        raise UsersUnusable(
            f"{name!r} is no name of a user; take 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore"
        )


@contextmanager
def change_users(path: Path) -> Iterator[dict[str, User]]:
    """The users of a file, to be changed; they are written if nothing is raised. One at a time may do so.

    Raises:
        UsersUnusable: It cannot be read or written, or there are too many.
    """
    try:
        lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsersUnusable(f"the folder {path.parent} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        users = read_users(path) if path.exists() else {}
        yield users
        if len(users) > USERS_MAX:
            raise UsersUnusable(
                f"there are {USERS_MAX} users in {path} already; `flockmq user remove` one"
            )
        lines = (f"{user.name} {user.role} {user.stored}\n" for user in users.values())
        write_file(path, (_HEADING + "".join(lines)).encode(), secret=True)
    except SecretUnusable as error:
        raise UsersUnusable(str(error)) from None
    finally:
        os.close(lock)


class Users:
    """A users file, as it is at any moment.

    Raises:
        UsersUnusable: It cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()
        self._users = read_users(path)
        self.problem = ""
        """Why it cannot be used now; then there is nobody in it."""
        self.version = 0
        """Changes whenever the file does."""

    def __len__(self) -> int:
        return len(self._users)

    def get(self, name: str) -> User | None:
        """The user of that name, if there is one."""
        return self._users.get(name)

    def refresh(self) -> None:
        """Read the file again if it has changed; costs 2 us if not."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        self.version += 1
        try:
            self._users, self.problem = read_users(self._path), ""
        except UsersUnusable as error:
            self._users, self.problem = {}, str(error)

    def _look(self) -> tuple[int, ...]:
        """What differs between versions of a file: a new one takes the old one's place, or is written later."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class UsersAt(NamedTuple):
    """Who is let in by a password, and what becomes of those without a name."""

    users: Users
    anonymous: Anonymous = Anonymous.REFUSED
