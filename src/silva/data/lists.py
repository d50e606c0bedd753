"""List files of DomainNet and PACS: one line an image, "path label".

They lie in the data set's folder, or in one of their own in it (PACS comes as pacs_data and
pacs_label), and say domain and side in their names: clipart_train.txt, clipart_test.txt;
art_painting_train_kfold.txt, art_painting_crossval_kfold.txt. Labels may start at 0 (DomainNet) or
1 (PACS). Class names come from the folders that hold the images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from silva.data.columns import Column, assemble, name_column
from silva.data.nouns import TEST, TRAIN, ImageDataset
from silva.data.sources import FileSource, read_file
from silva.errors import DataError

MAX_LIST_BYTES = 256 * 2**20
MAX_LINE = 4096

_NAME = re.compile(r"(?:(?P<domain>.+)_)?(?P<side>train|test|val|crossval)(?:_kfold)?\.txt")
_IMAGE_FOLDERS = (".", "kfold", "images")


def find_lists(root: Path) -> list[Path]:
    """The list files in `root`, by name; without any, those in a folder of `root`, of one domain each.

    Raises DataError when several folders hold such lists.
    """
    if here := _lists_in(root):
        return here
    below = [_lists_in(folder) for folder in _folders(root)]
    below = [files for files in below if files and all(_match(file)["domain"] for file in files)]
    if len(below) > 1:
        raise DataError(
            f"list files in several folders ({below[0][0].parent.name}, {below[1][0].parent.name})",
            where=root,
            remedy="keep those of one data set",
        )
    return below[0] if below else []


def _lists_in(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(path for path in found if path.is_file())


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def parse_list(text: str, where: object) -> list[tuple[str, int]]:
    """The (path, label) of every line; empty lines are passed over.

    Paths may hold spaces. Raises DataError, naming the line, for a line without a label, a label
    that is no integer from 0, and a path that is absolute or leaves the folder.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        place = f"{where}: line {number}"
        if len(line) > MAX_LINE or not path.strip():
            raise DataError('no line "path label"', where=place, remedy="correct the list file")
        if not (label.isascii() and label.isdigit() and len(label) < 10):
            what = f"label {label[:20]!r} is no integer from 0"
            raise DataError(what, where=place, remedy="correct the list file")
        found.append((_inside(path.strip(), place), int(label)))
    return found


def _inside(path: str, place: str) -> str:
    """`path` made plain, if it stays inside the folder of the data set."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or ":" in path or "\0" in path or not pure.parts:
        raise DataError(
            f"path {path[:80]!r} leaves the folder of the data set",
            where=place,
            remedy="write paths relative to that folder",
        )
    return str(pure)


def read_lists(root: Path, *, split: str = "", labels: str = "") -> ImageDataset:
    """The images that the list files in `root` name, with column "domain" where the files tell it.

    An image in a train list trains, any other tests; an image listed twice counts once (PACS lists
    its test files on top of train and crossval). Raises DataError as `parse_list` does, and when
    the first image listed is nowhere in the folder.
    """
    rows: dict[str, tuple[int, int, str]] = {}
    files = find_lists(root)
    # Train lists first: an image that stands in several lists must not be tested on.
    for file in sorted(files, key=lambda file: (_match(file)["side"] != "train", file.name)):
        match = _match(file)
        side = TRAIN if match["side"] == "train" else TEST
        for path, label in parse_list(_text(file), file):
            rows.setdefault(path, (label, side, match["domain"] or ""))
    if not rows:
        raise DataError("list files name no images", where=root, remedy="correct the list files")
    paths = list(rows)
    targets, sides, domains = zip(*rows.values(), strict=True)
    columns = {"label": _label_column(paths, targets)}
    if len(set(sides)) > 1:
        columns["split"] = Column(np.array(sides, dtype=np.int64))
    if any(domains):
        columns["domain"] = name_column(domains)
    source = FileSource(_image_folder(root, paths[0]), paths)
    return assemble(source, columns, where=root, title=root.name, labels=labels, split=split)


def _match(file: Path) -> re.Match[str]:
    match = _NAME.fullmatch(file.name)
    assert match is not None  # find_lists gives no other files
    return match


def _text(file: Path) -> str:
    try:
        return read_file(file, MAX_LIST_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", where=file, remedy="store it as UTF-8") from None


def _image_folder(root: Path, path: str) -> Path:
    for folder in (*(root / name for name in _IMAGE_FOLDERS), *_folders(root)):
        if (folder / path).is_file():
            return folder
    raise DataError(
        f"{path!r} from the list files is not there",
        where=root,
        remedy="unpack the images beside the list files",
    )


def _label_column(paths: Sequence[str], targets: Sequence[int]) -> Column:
    """Labels renumbered from 0 without gaps, named by the images' folders where those agree."""
    numbers, values = np.unique(np.array(targets, dtype=np.int64), return_inverse=True)
    names: dict[int, str] = {}
    for path, target in zip(paths, targets, strict=True):
        folder = PurePosixPath(path).parent.name
        if not folder or names.setdefault(target, folder) != folder:
            return Column(_flat(values), tuple(str(number) for number in numbers))
    if len(set(names.values())) < len(names):
        return Column(_flat(values), tuple(str(number) for number in numbers))
    return Column(_flat(values), tuple(names[int(number)] for number in numbers))


def _flat(values: NDArray[np.intp]) -> NDArray[np.int64]:
    return values.reshape(-1).astype(np.int64)
