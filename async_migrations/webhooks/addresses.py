"""Which addresses a webhook may lead to: public ones, unless a setting says otherwise."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from ..conf import conf
from ..errors import WebhookRefused

# A gateway may translate these to the IPv4 address in their last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, each of them checked.

    Raises OSError where it has none, and WebhookRefused where one of them is not to be reached: which one is connected
    to is then not up to whoever runs the name server.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        raise OSError(f"{host!r} is no host name") from exc
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        _check(host, address)
    return addresses


def check_literal(host: str) -> None:
    """Raise WebhookRefused for an address that is not to be reached; a name is not looked up."""
    with suppress(ValueError):
        _check(host, str(ipaddress.ip_address(host)))


def _check(host: str, address: str) -> None:
    if conf.webhook_private_addresses:
        return
    if not all(_is_public(meant) for meant in _meant(ipaddress.ip_address(address))):
        leads = "" if host == address else f" leads to {address}, which"
        raise WebhookRefused(
            f"{host}{leads} is not a public address, so nothing is sent there. If it is meant, set "
            "ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES=true for every process."
        )


def _meant(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return the address, and the IPv4 addresses that it stands for."""
    if isinstance(address, IPv4Address):
        return [address]
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    embedded = [found for found in inner if found is not None]
    # A mapped address is private in itself to some versions of Python, and public to others: what it maps to counts.
    return [*embedded] if address.ipv4_mapped or address in _NAT64 else [address, *embedded]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and address.is_site_local:  # Given up long ago, and used inside all the same.
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
