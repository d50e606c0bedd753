"""Results of benchmarks as their files have them."""

from __future__ import annotations

FACTS = {
    "machine": {"processor": "P", "cores": 2, "memory_bytes": 2**34, "system": "Linux x86_64"},
    "versions": {"silva": "0.1", "torch": "2.9"},
    "commit": "abc",
    "date": "2026-01-01",
}
"""What each says of the machine it was measured on."""
