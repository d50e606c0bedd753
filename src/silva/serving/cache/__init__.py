"""What a cache peer keeps: content-addressed blocks in RAM over disk (`store`)."""

from silva.serving.cache.store import BlockStore, Kept, StoreConfig, StoreStats

__all__ = ["BlockStore", "Kept", "StoreConfig", "StoreStats"]
