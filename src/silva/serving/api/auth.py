"""Who asks: the API key of a request, and whether it may use the admin verbs."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from silva.serving.api.errors import ApiError
from silva.serving.api.keys import ANYBODY, ApiKey, KeyRing

_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def caller(connection: HTTPConnection, keys: KeyRing) -> ApiKey:
    """The key of `Authorization: Bearer ...`; ANYBODY where the server has no keys. Raises 401."""
    if not keys:
        return ANYBODY
    key = keys.find(_bearer(connection))
    if key is None:
        raise _unauthorised("missing or wrong API key; send Authorization: Bearer KEY")
    return key


def check_admin(connection: HTTPConnection, admin: KeyRing) -> None:
    """Raises 401 or 403 unless the admin key is sent or, where none is set, the caller is local.

    Local means this machine, not passed on by a proxy, and not a web page of another site that a
    browser on this machine shows: neither by its own script nor by a name that it lets point here.
    """
    if admin:
        if admin.find(_bearer(connection)) is None:
            raise _unauthorised("missing or wrong admin key; send Authorization: Bearer KEY")
    elif not _is_local(connection):
        message = "without an admin key only this machine may administer the server"
        raise ApiError(403, message, code="not_local")


def _is_local(connection: HTTPConnection) -> bool:
    headers = connection.headers
    if any(name in headers for name in _PROXY_HEADERS):
        return False
    origin = headers.get("origin")
    if origin is not None and _netloc(origin) != headers.get("host"):
        return False
    host = _host_name(headers.get("host", ""))
    return host in _LOCAL_NAMES and connection.client is not None and _loops(connection.client.host)


def _loops(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _unauthorised(message: str) -> ApiError:
    error = ApiError(401, message, code="invalid_api_key")
    error.headers["www-authenticate"] = "Bearer"
    return error
