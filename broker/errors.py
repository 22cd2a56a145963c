"""What the broker package raises, as one tree.

    FlockmqError
    ├── Refused             the node cannot take a publish now; the publisher waits, nothing is lost
    ├── NotBelieved         no device would believe this publish; says why
    ├── RemoteError         the other side did what MQTT forbids; its connection ends, ours goes on
    │   └── MalformedPacket bytes that are not an MQTT 3.1.1 packet, or one that may not stand here
    ├── CannotListen        a listener's address cannot be used; says what, where and why
    │   └── PortInUse       another program has it; says the way out too
    ├── SecretUnusable      a key or a password cannot be taken from its file or put into it; says which and why
    │   └── SecretMissing   there is no such file
    ├── UsersUnusable       the file of a device's users cannot be read or written; says which line, and why
    ├── AuthorityUnusable   the fleet's authority cannot do what it is asked; says why
    ├── IdentityUnusable    this device's certificate or key cannot be used; says which and why
    ├── EnrolmentFailed     a device was not enrolled; says why, and what to do
    ├── CallError           a call to another device brought no result
    │   ├── Unreachable     there is no way to the device
    │   ├── CallTimeout     no answer came in time; the service may have been at work
    │   └── CallFailed      the other device answered with an error
    ├── StateInUse          another process uses the state directory
    └── StoreFailed         the store cannot be opened or written; nothing was stored

Decides: who is to blame. A `RemoteError` is a peer's fault: counted, its connection closed.
`Refused` is nobody's fault: the publisher is held back and tried again. `CannotListen` is for
the person who starts the program. Assumes: callers catch the narrowest class they can answer. On
failure: anything outside this tree that escapes the broker is a defect of ours.
"""


class FlockmqError(Exception):
    """Root of everything this package raises on purpose."""


class Refused(FlockmqError):
    """The node cannot take this publish now: a limit is reached, which the text names; try again later."""


class NotBelieved(FlockmqError):
    """No device of the fleet would believe this publish, so it goes nowhere; says why."""


class RemoteError(FlockmqError):
    """The other side of a connection broke the protocol; close that connection and count it."""


class MalformedPacket(RemoteError):
    """These bytes are not an MQTT 3.1.1 control packet, or not one that this side may send."""


class CannotListen(FlockmqError):
    """The system does not let a listener have its address."""

    def __init__(self, listener: str, host: str, port: int, reason: str) -> None:
        super().__init__(f"the {listener} listener cannot use {host}:{port}: {reason}")
        self.listener = listener
        self.host = host
        self.port = port


class PortInUse(CannotListen):
    """Another program listens on the address that a listener wants."""

    def __init__(self, listener: str, host: str, port: int) -> None:
        super().__init__(
            listener,
            host,
            port,
            "another program listens there; "
            f"stop it (`ss -ltnp 'sport = :{port}'` names it) or choose another port",
        )


class SecretUnusable(FlockmqError):
    """A key or a password cannot be taken from its file; says which and why, never the secret."""


class SecretMissing(SecretUnusable):
    """There is no file where the key or the password should be."""


class UsersUnusable(FlockmqError):
    """The file of a device's users cannot be read or written; says which line and why, never a hash."""


class AuthorityUnusable(FlockmqError):
    """The fleet's certificate authority cannot do what it is asked; says why, and the way out."""


class IdentityUnusable(FlockmqError):
    """This device's certificate or key cannot be used; says which and why, never the key."""


class EnrolmentFailed(FlockmqError):
    """A device was not enrolled; says why, and what to do."""


class CallError(FlockmqError):
    """A call to another device brought no result."""

    def __init__(self, to: str, service: str, why: str) -> None:
        super().__init__(f"{service} of {to}: {why}")
        self.to = to
        self.service = service


class Unreachable(CallError):
    """There was no way to the device until the call's deadline."""

    def __init__(self, to: str, service: str) -> None:
        super().__init__(
            to, service, "no way to that device was known by the deadline; is it up, and linked?"
        )


class CallTimeout(CallError):
    """No answer came in time; the service may have been at work."""


class CallFailed(CallError):
    """The other device answered with an error."""

    def __init__(self, to: str, service: str, kind: str, text: str) -> None:
        super().__init__(to, service, f"{kind}: {text}")
        self.kind = kind
        """`no-service`, `busy` or `failed`."""


class StateInUse(FlockmqError):
    """Another process uses the state directory."""

    def __init__(self, directory: object) -> None:
        super().__init__(
            f"the state directory {directory} is in use by another flockmq process; "
            "stop that one, or give this device a directory of its own"
        )


class StoreFailed(FlockmqError):
    """The store could not be opened or written (disk full, read-only, gone); nothing was stored."""
