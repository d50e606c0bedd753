"""A client's probe as a file: B of its light training, by module, which routes it to a cluster.

Data need not leave whoever owns them: B [out, rank] spans the directions in which the client's examples
change the model, and is all that a server is given. It says which forest it was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from silva.adapters.manifest import Manifest
from silva.adapters.objects import MAX_OBJECT_BYTES, decode_tensors, encode_tensors
from silva.errors import ForestError

_FORMAT, _PREFIX = "1", "B."


@dataclass(frozen=True)
class Probed:
    """What a client tells of itself. images: how many training examples it has."""

    factors: Mapping[str, Tensor]
    images: int


def encode_probed(probed: Probed, manifest: Manifest) -> bytes:
    """The file's content, for the forest of `manifest`."""
    about = {"format": _FORMAT, "kind": "probed", "images": str(probed.images)}
    about |= {"base": manifest.base.digest, "draw": manifest.probe or ""}
    return encode_tensors({f"{_PREFIX}{m}": B for m, B in probed.factors.items()}, about)


def decode_probed(data: bytes, manifest: Manifest, where: object) -> Probed:
    """The probe of a file; ForestError for anything else, and for one of another forest."""
    if len(data) > MAX_OBJECT_BYTES:
        raise ForestError(f"has more than {MAX_OBJECT_BYTES} bytes", where=where)
    tensors, about = decode_tensors(data, where)
    if (about.get("format"), about.get("kind")) != (_FORMAT, "probed"):
        remedy = "make one with `silva forest probe`"
        raise ForestError("is no client's probe", where=where, remedy=remedy)
    if (about.get("base"), about.get("draw")) != (manifest.base.digest, manifest.probe or ""):
        raise ForestError(
            "was made for another forest", where=where, remedy="probe the client with this forest"
        )
    images = about.get("images", "")
    if not images.isascii() or not images.isdecimal() or len(images) > 9:
        raise ForestError(f"has {images[:20]!r} training examples", where=where)
    if any(not name.startswith(_PREFIX) for name in tensors):
        raise ForestError("holds tensors that belong to no probe", where=where)
    return Probed({n.removeprefix(_PREFIX): t for n, t in tensors.items()}, int(images))
