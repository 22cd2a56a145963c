"""Asks a person for a password, or takes it from standard input: never from the command line, which others can read."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Final

from agent.commands.client import Login
from agent.errors import ConfigError
from broker.secret_file import read_secret

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["login", "new_password"]

PASSWORD_LENGTH_MIN: Final = 8
"""Characters, as NIST SP 800-63B has it. Guessing one at a device is slow; whoever has read the file has more time."""
PASSWORD_BYTES_MAX: Final = 1024
"""MQTT could carry 65,535."""


def new_password(name: str) -> bytes:
    """A new password for a user: asked for twice without echo, or the first line of standard input.

    Raises:
        ConfigError: It is too short or too long, or is not the same twice.
    """
    password = _asked(f"password for {name}: ")
    if len(password) < PASSWORD_LENGTH_MIN or len(password.encode()) > PASSWORD_BYTES_MAX:
        raise ConfigError(
            f"a password has {PASSWORD_LENGTH_MIN} characters or more, and {PASSWORD_BYTES_MAX} bytes at most; "
            "take another one"
        )
    if sys.stdin.isatty() and _asked("once more: ") != password:
        raise ConfigError("these were two different passwords; nothing was changed")
    return password.encode()


def login(name: str | None, file: Path | None) -> Login | None:
    """Who one is to a device's users; None without a name.

    Args:
        name: The user's.
        file: What holds the password, mode 0600; None: it is asked for, or read from standard input.

    Raises:
        ConfigError: There is a file, and no name.
        SecretUnusable: The file cannot be used.
    """
    if name is None:
        if file is not None:
            raise ConfigError("--password-file holds a user's password; say whose with --user")
        return None
    if file is not None:
        return Login(name, read_secret(file, "password file"))
    return Login(name, _asked(f"password of {name}: ").encode())


def _asked(prompt: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    return sys.stdin.readline().rstrip("\r\n")
