"""Sensors and features of one's own: what `module:callable` in device.toml makes.

Decides that a person's own module may fail in any way, and that each way is one line with the way to its place; a
forgotten `return` is one of them. Assumes that modules beside device.toml can be imported, which `config.load` sees to.
On failure: `ConfigError`; what a factory says by an `AgentError` of its own stays as it is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agent.config_errors import one_line
from agent.errors import AgentError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["made_by"]


def made_by(factory: str, device: str, options: dict[str, Any], form: type[object]) -> Any:
    """What the callable behind `module:callable` makes of a device's id and options.

    Args:
        factory: The name.
        device: The id.
        options: From device.toml.
        form: The protocol that it should have.

    Raises:
        ConfigError: There is no such module or callable, or it fails, or makes something else.
        AgentError: The factory says that it cannot.
    """
    make = _resolve(factory)
    try:
        made = make(device, options)
    except AgentError:
        raise
    except Exception as error:  # a person's own code may fail in any way
        raise ConfigError(
            f"factory {factory}: it raised {type(error).__name__}: {one_line(error)}; correct its options "
            "in device.toml, or mend it"
        ) from error
    wanted = (*form.__annotations__, *vars(form))
    lacking = [name for name in wanted if not name.startswith("_") and not hasattr(made, name)]
    if lacking:
        raise ConfigError(
            f"factory {factory}: it returned {type(made).__name__}, without {', '.join(lacking)}; "
            f"{form.__module__}:{form.__name__} is what it should return"
        )
    return made


def _resolve(factory: str) -> Callable[..., Any]:
    module_name, _, name = factory.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"factory {factory}: {error}; put the module beside device.toml, or install it"
        ) from None
    except Exception as error:  # a person's own module may fail in any way while it is imported
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(
            f"factory {factory}: {module_name} cannot be imported: {what}; "
            f"`python -c 'import {module_name}'` shows where"
        ) from error
    found: object = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(
            f"factory {factory}: {module_name} has no callable {name}; define it there"
        )
    return found
