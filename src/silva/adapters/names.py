"""Names of clients and clusters. A name is never part of a file's path; objects go by digest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from silva.errors import ForestError, UnknownClientError

_CLIENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CLUSTER = re.compile(r"cluster-(0|[1-9][0-9]{0,5})")
_RESERVED = ("base", "root")


def check_client_name(name: str) -> str:
    """The name itself if a client may bear it, else ForestError.

    Reserved are what the API calls other models: `base`, `root` and everything `cluster-*`.
    """
    if not isinstance(name, str) or not _CLIENT.fullmatch(name):
        raise ForestError(
            f"client name {_shown(name)} is not allowed",
            remedy="use 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit",
        )
    if name in _RESERVED or name.startswith("cluster-"):
        raise ForestError(
            f"client name {_shown(name)} is reserved",
            remedy="base, root and cluster-* name other models; choose another name",
        )
    return name


def cluster_name(number: int) -> str:
    """What the cluster of that number, from 0, is called."""
    return f"cluster-{number}"


def check_cluster_name(name: str) -> str:
    """The name itself if it is `cluster-<number>`, else ForestError."""
    if not isinstance(name, str) or not _CLUSTER.fullmatch(name):
        raise ForestError(
            f"cluster name {_shown(name)} is not allowed", remedy="name clusters cluster-0, ..."
        )
    return name


def unknown_client(name: str, known: Iterable[str], where: object) -> UnknownClientError:
    """The error for a name that no client bears, with the names that come near it."""
    near = difflib.get_close_matches(name[:64], list(known), n=3, cutoff=0.6)
    remedy = f"did you mean {', '.join(near)}?" if near else "`silva forest show` lists the clients"
    return UnknownClientError(f"no client {_shown(name)}", where=where, remedy=remedy)


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:77] + "..."
