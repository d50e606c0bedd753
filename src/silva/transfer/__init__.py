"""Moving bytes between peers by one-sided, verified reads: `base` has the contract."""

from silva.transfer.base import (
    CorruptError,
    Exposed,
    GoneError,
    Piece,
    RefusedError,
    Region,
    TimedOutError,
    Transfer,
    TransferError,
    checksum,
)
from silva.transfer.open import open_transfer

__all__ = [
    "CorruptError",
    "Exposed",
    "GoneError",
    "Piece",
    "RefusedError",
    "Region",
    "TimedOutError",
    "Transfer",
    "TransferError",
    "checksum",
    "open_transfer",
]
