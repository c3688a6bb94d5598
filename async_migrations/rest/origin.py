"""Who asks over HTTP: the user, the address that the request came from, the token, and the id of the request."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from ..conf import conf
from ..lifecycle import Channel, Origin
from ..lifecycle.audit import shown
from .request_id import current_request_id


def origin_of(request: Any, channel: Channel) -> Origin:
    """Return who asks; `by` is empty for somebody who is not known."""
    return Origin(
        by=request.user.get_username(),
        request_id=current_request_id(),
        channel=channel,
        address=address_of(request),
        token=token_of(request),
    )


def token_of(request: Any) -> str:
    """Return the beginning of the digest of the token that the request was sent with; empty for a session."""
    return shown(getattr(getattr(request, "auth", None), "digest", ""))


def address_of(request: Any) -> str:
    """Return the address of the client: of the peer, or where that is a trusted proxy what it says of its own peer.

    What stands in X-Forwarded-For before the first address that is no trusted proxy's, anybody could have written.
    """
    peer = request.META.get("REMOTE_ADDR") or "unix"
    hops = [*request.headers.get("X-Forwarded-For", "").split(","), peer]
    address = ""
    while hops and (hop := _readable(hops.pop())):
        address = hop
        if not _is_trusted(hop):
            break
    return "" if address == "unix" else address


def _readable(hop: str) -> str:
    """Return the address as it is usually written; empty for what is none."""
    try:
        return hop if hop == "unix" else str(ip_address(hop.strip()))
    except ValueError:
        return ""


def _is_trusted(hop: str) -> bool:
    return any(
        hop == proxy if hop == "unix" or proxy == "unix" else ip_address(hop) in proxy for proxy in conf.trusted_proxies
    )
