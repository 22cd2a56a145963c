"""What the agent package raises for the person who runs it, as one tree.

    AgentError
    ├── ConfigError         `device.toml` cannot be used: missing, no TOML, an unknown key, a wrong value
    ├── SensorError         a sensor cannot be made or goes on no more: a trace is missing, a camera is gone
    ├── ModelMissing        a model's file, or the folder of models, is not where it should be
    ├── ModelUnusable       a model's file, or a version of it, is not what it should be
    └── NoDevice            a command finds no broker, or no device, at an address

Decides: what a start-up failure looks like. Each message is one line that says what is wrong, where, and the way out;
the command line prints it as it is and exits with 2. Assumes: the text was written for that person. On failure: what
is not in this tree or `broker.errors.FlockmqError` and reaches the command line is a defect of ours. What a running
device survives has its own types: `agent.infer.backend.InferenceError`, `agent.messages.PayloadInvalid`.
"""


class AgentError(Exception):
    """Root of what the agent raises for the person who runs it; the text is one line."""


class ConfigError(AgentError):
    """The configuration cannot be used; says which file, which key and what to write instead."""


class SensorError(AgentError):
    """A sensor cannot be made, or what it reads has ended; says which and where it looked."""


class ModelMissing(AgentError):
    """A model's file or folder is missing or unreadable; says where it was looked for."""


class ModelUnusable(AgentError):
    """A model's file or a version of it cannot be used; says what is wrong with which."""


class NoDevice(AgentError):
    """No broker answers at an address, or it is not a flockmq device's; says what to try."""
