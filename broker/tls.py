"""TLS as the fleet uses it: what both ends demand, what it means when they do not come together, a handshake in memory.

Decides: TLS 1.3 and no older, a certificate from both sides, and no session resumption, so that nobody is let in by
what counted yesterday. OpenSSL verifies that the authority has signed a certificate, and what for; it does not look at
dates, since a device may boot in 1970 (`trust.py` judges them).

Assumes nothing of who is at the other end. On failure: `ssl.SSLError`, of which `explain` makes something for people.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

__all__ = ["HANGS_UP", "explain", "shake_hands", "tls_context"]

HANGS_UP: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""What the end of a connection within a handshake looks like, which says nothing of identities: diallers hang up those
of their attempts that come second."""
_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for."""
_FLIGHTS_MAX: Final = 10
"""Of a handshake; TLS 1.3 needs three."""
_REASONS: Final = {
    "CERTIFICATE_REQUIRED": "it wants a certificate, and was shown none",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "UNKNOWN_CA": "it does not know the authority of this device's certificate; is it of another fleet?",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not of this fleet's authority",
    "WRONG_VERSION_NUMBER": "it does not speak TLS; is that its port for plain MQTT?",
    "HTTP_REQUEST": "it does not speak TLS",
    "RECORD_LAYER_FAILURE": "it does not speak TLS; is that its port for plain MQTT?",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "PROTOCOL_VERSION": "it does not speak TLS 1.3",
    "NO_SHARED_CIPHER": "it shares no cipher of TLS 1.3",
    "UNSUPPORTED_CERTIFICATE": "it does not take this device's certificate for what it is used for",
}
"""By a part of OpenSSL's name of an error: what a person makes of it."""


def explain(error: Exception) -> str:
    """What a person makes of a failed handshake."""
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "no handshake in time"
    name = (getattr(error, "reason", None) or str(error)).upper().replace(" ", "_")
    for part, reason in _REASONS.items():
        if part in name:
            return reason
    if isinstance(error, ssl.SSLError):
        return f"no handshake: {(error.reason or str(error)).lower().replace('_', ' ')}"
    return "it hangs up during the handshake"


def tls_context(protocol: int) -> ssl.SSLContext:
    """What one end of a connection demands; `protocol`: `ssl.PROTOCOL_TLS_SERVER` or `PROTOCOL_TLS_CLIENT`."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the name is in the URI, and checked by `Trust.admit`
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any] | None:
    """A handshake in memory: the client's certificate, as the server sees it.

    Raises:
        ssl.SSLError: One does not believe the other.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(_FLIGHTS_MAX):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    fields: dict[str, Any] | None = ends[1].getpeercert()
    return fields
