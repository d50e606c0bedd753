"""What clients are called: the forest's rule for names, and numbers where the data gives none."""

from __future__ import annotations

from silva.adapters import names
from silva.errors import ForestError, PartitionError


def check_client_name(name: str, where: object = "") -> str:
    """Give `name` back, or raise PartitionError. Nothing is repaired: two names could collide."""
    try:
        return names.check_client_name(name)
    except ForestError as error:
        raise PartitionError(error.what, where=where, remedy=error.remedy) from None


def numbered_names(clients: int) -> list[str]:
    """c-00, c-01, ...: as many digits as the last needs, at least two."""
    digits = max(2, len(str(clients - 1)))
    return [f"c-{i:0{digits}d}" for i in range(clients)]
