"""Settings of the data of a run: where it lies and who owns what."""

from __future__ import annotations

from dataclasses import dataclass

from silva.config import setting


@dataclass(frozen=True)
class DataConfig:
    """One data set, dealt out to clients."""

    path: str = setting("", help="file or folder (format detected), or a known name")
    split: str = setting("", help="train/test column or share where the format leaves it open")
    labels: str = setting("", help="label column or level where the format leaves it open")
    partition: str = setting("sc_dir(2,3.0)", help="who owns which image")
    clients: int = setting(40, low=1, high=1_000_000, help="number of clients, unseen ones too")
    unseen: float = setting(0.2, low=0.0, high=0.9, help="share of clients held out of training")
    samples_per_client: int = setting(250, low=0, high=10_000_000, help="train images; 0: all")
    test_per_client: int = setting(100, low=1, high=10_000_000, help="test images at most")
    window: int = setting(
        128, low=2, high=1_000_000, help="tokens of a window, which is to texts what an image is"
    )
