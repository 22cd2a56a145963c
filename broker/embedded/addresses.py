"""Whom an address stands for, where something is counted by address.

Decides: an IPv4 address stands for itself. Whoever has an IPv6 address has the 2^64 beside it, too, since no subscriber
is given less than a /64: all of one count together, or a flood would come from as many addresses as it has packets.
Assumes: addresses as sockets tell them. On failure: nothing can fail. What remains: machines of one network share its
count, as those behind one IPv4 address do, and an attacker may have a shorter prefix.

Source: RFC 6177 for what a site is given, RFC 4291 for the 64 bits.
"""

from ipaddress import IPv6Address, IPv6Network
from typing import Final

_PREFIX_BITS: Final = 64


def network_of(address: str) -> str:
    """Return what an address is counted as: itself, or the network of 64 bits that it is in."""
    if ":" not in address:
        return address
    whole = IPv6Address(address)
    if whole.ipv4_mapped is not None:  # a listener for both sees all of IPv4 in one such network
        return str(whole.ipv4_mapped)
    return str(IPv6Network((int(whole), _PREFIX_BITS), strict=False))
