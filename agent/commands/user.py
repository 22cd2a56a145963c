"""`flockmq user`: the users of one device, kept in a file beside its device.toml.

Decides what is said; what a users file is stands in `broker/users.py`. A running device takes a change within a second.
On failure: one sentence, and nothing has changed. No password and no hash is ever shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.commands.password import new_password
from agent.commands.paths import is_there
from agent.commands.text import count_of, say
from broker.errors import UsersUnusable
from broker.identity import Role
from broker.passwords import hash_password
from broker.users import User, change_users, check_user_name, read_users

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["add", "list_users", "remove"]


def add(file: Path, name: str, role: Role | None) -> None:
    """Make a user, or give one that is there another password.

    Args:
        file: The users file; made if it is missing.
        name: The user's.
        role: What he may do; None: what he might before, a new one what a program on the device may.

    Raises:
        UsersUnusable: The file cannot be used, or nobody may have this name.
        ConfigError: The password is none.
    """
    check_user_name(name)
    new_file = not is_there(file)
    if not new_file:
        read_users(file)  # rather than ask for a password in vain
    stored = hash_password(new_password(name))
    with change_users(file) as users:
        before = users.get(name)
        role = role or (before.role if before else Role.DEVICE)
        users[name] = User(name, role, stored)
    say(f"{'changed' if before else 'added'} user {name}, role {role}, in {file}")
    if new_file:
        say(f'[users] with file = "{file.name}" in device.toml makes the device go by it')


def remove(file: Path, name: str) -> None:
    """Let a user in no more.

    Raises:
        UsersUnusable: The file cannot be used, or there is no such user.
    """
    with change_users(file) as users:
        if name not in users:
            raise UsersUnusable(f"there is no user {name} in {file}; those are: {_names(users)}")
        del users[name]
    say(f"removed user {name} from {file}")


def list_users(file: Path) -> None:
    """Show who is in the file.

    Raises:
        UsersUnusable: It is not there, or cannot be used.
    """
    users = read_users(file)
    say(f"{file}: {count_of(len(users), 'user')}")
    for user in users.values():
        say(f"  {user.role} {user.name}")


def _names(users: Mapping[str, User]) -> str:
    return ", ".join(users) or "nobody"
