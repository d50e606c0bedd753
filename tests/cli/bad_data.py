"""Data sets as they must not be: each function writes one below a folder and returns its path."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from PIL import Image

CANARY = "owned"
"""Name of the file that hostile pickles would make in the working folder."""


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pictures(folder: Path) -> Path:
    """Two classes of ten small images, one file each."""
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (20 * number, 9, 9)).save(folder / name / f"{number}.png")
    return folder


def png(width: int, height: int) -> bytes:
    """A PNG of any size in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def absent(folder: Path) -> Path:
    return folder / "cifar-100-python.tar.gz"


def empty_file(folder: Path) -> Path:
    (folder / "data.npz").write_bytes(b"")
    return folder / "data.npz"


def truncated_tar(folder: Path) -> Path:
    noise = np.random.default_rng(0).bytes(20_000)
    path = tar(folder / "cifar-100-python.tar.gz", {"train": noise, "test": noise})
    path.write_bytes(path.read_bytes()[:9_000])
    return path


def truncated_npz(folder: Path) -> Path:
    path = tiny.save_data(folder / "data.npz")
    path.write_bytes(path.read_bytes()[:-500])
    return path


def truncated_idx(folder: Path) -> Path:
    for part, rank in (("images-idx3", 3), ("labels-idx1", 1)):
        header = b"\0\0\x08" + bytes([rank]) + struct.pack(f">{rank}I", *(10, 8, 8)[:rank])
        (folder / f"train-{part}-ubyte.gz").write_bytes(gzip.compress(header + bytes(5)))
    return folder


def truncated_parquet(folder: Path) -> Path:
    (folder / "data.parquet").write_bytes(b"PAR1" + bytes(50))
    return folder / "data.parquet"


def truncated_jpeg(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures(folder / "images") / "ant" / "z.jpg")
    path = folder / "images" / "ant" / "z.jpg"
    path.write_bytes(path.read_bytes()[:1500])
    return folder / "images"


def no_image(folder: Path) -> Path:
    (pictures(folder / "images") / "bee" / "3.png").write_text("this is a letter")
    return folder / "images"


def image_bomb(folder: Path) -> Path:
    (pictures(folder / "images") / "bee" / "3.png").write_bytes(png(9_000, 9_000))
    return folder / "images"


def huge_image_bomb(folder: Path) -> Path:
    (pictures(folder / "images") / "ant" / "0.png").write_bytes(png(60_000, 60_000))
    return folder / "images"


def pickle_that_runs_code(folder: Path) -> Path:
    hostile = pickle.dumps(Hostile())
    return tar(folder / "cifar.tar.gz", {"train": hostile, "test": hostile, "meta": hostile})


def npz_that_runs_code(folder: Path) -> Path:
    np.savez(folder / "data.npz", images=np.array([Hostile()], object), label=np.zeros(1, int))
    return folder / "data.npz"


def client_outside(folder: Path) -> Path:
    names = np.array(["good", "../evil"])
    owner = np.arange(len(tiny.arrays()["label"])) % 2
    np.savez(folder / "data.npz", **tiny.arrays(), client=owner, client_names=names)
    return folder / "data.npz"


def path_outside(folder: Path) -> Path:
    (folder / "set").mkdir()
    (folder / "set" / "photo_train.txt").write_text("../secret.png 0\n")
    return folder / "set"
