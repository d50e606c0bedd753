"""Parquet files as the Hugging Face hub serves them: a column of image files, a column of labels.

Images are binary, or a struct {bytes, path} of which only the bytes are used: a path that a file
names is never opened. Class names come from the schema's ClassLabel metadata where it has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from silva.data.columns import Column, array_column, assemble, name_column
from silva.data.nouns import ImageDataset
from silva.data.sources import EncodedSource
from silva.data.split import SPLIT_WORDS
from silva.errors import DataError

MAX_BYTES = 8 * 2**30
"""Most bytes the columns of all files may take in memory."""

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "bytes")
_AGAIN = "download or make the file again"


def read_parquet(files: Sequence[Path], *, split: str = "", labels: str = "") -> ImageDataset:
    """One data set from parquet files of equal schema.

    The name of a file (train-00000-of-00002.parquet) or of its folder says its split, unless a
    column "split" does. Raises DataError for a damaged or oversized file, nulls, a missing image
    column, and labels that are neither integers nor words.
    """
    where = files[0] if len(files) == 1 else files[0].parent
    budget = MAX_BYTES
    tables = []
    for file in files:
        tables.append(_table(file, budget))
        budget -= tables[-1].nbytes
    if any(not table.schema.equals(tables[0].schema) for table in tables):
        raise DataError("files have different columns", where=where, remedy="give one of them")
    table = pa.concat_tables(tables)
    image = _image_column(table.schema, where)
    source = EncodedSource.from_list(_image_bytes(table[image], where), where)
    named = _class_labels(table.schema)
    columns = {
        name: _column(table[name], named.get(name, ()), f"{where}: {name}")
        for name in table.column_names
        if name != image and (_is_plain(table.schema.field(name).type) or name == labels)
    }
    sides = [_side(file) for file in files]
    if "split" not in columns and all(sides):
        rows = np.repeat(np.arange(len(files)), [part.num_rows for part in tables])
        columns["split"] = name_column([sides[row] for row in rows])
    return assemble(source, columns, where=where, title=where.stem, labels=labels, split=split)


def _table(file: Path, budget: int) -> pa.Table:
    """The whole file, row group by row group, as long as it stays within `budget` bytes."""
    parts = []
    try:
        with pq.ParquetFile(file) as reader:
            for group in range(reader.num_row_groups):
                promised = reader.metadata.row_group(group).total_byte_size
                parts.append(reader.read_row_group(group) if promised <= budget else None)
                budget -= promised if parts[-1] is None else parts[-1].nbytes
                if budget < 0:
                    what = f"columns of more than {MAX_BYTES} bytes"
                    raise DataError(what, where=file, remedy="give fewer or smaller files")
            return pa.concat_tables(parts) if parts else reader.schema_arrow.empty_table()
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:80]
        raise DataError(f"damaged parquet file ({reason})", where=file, remedy=_AGAIN) from None


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def _image_column(schema: pa.Schema, where: Path) -> str:
    found = [field.name for field in schema if _is_image(field.type)]
    for name in IMAGE_COLUMNS:
        if name in found:
            return name
    if len(found) == 1:
        return str(found[0])
    what = "no column of image files" if not found else f"several image columns {found}"
    names = ", ".join(schema.names)[:120]
    raise DataError(f"{what} (columns: {names})", where=where, remedy='name it "image"')


def _image_bytes(column: pa.ChunkedArray, where: Path) -> list[bytes]:
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise DataError(
            "holds no bytes (a path outside the file is not followed)",
            where=f"{where}: image {row}",
            remedy="store the image files in the parquet file",
        )
    values: list[bytes] = column.to_pylist()
    return values


def _column(column: pa.ChunkedArray, names: tuple[str, ...], where: object) -> Column:
    if column.null_count:
        raise DataError("has empty values", where=where, remedy="fill them in")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return name_column(column.to_pylist())
    if not _is_plain(column.type):
        raise DataError(
            f"values are {column.type}, neither integers nor words",
            where=where,
            remedy="store integers from 0, or names",
        )
    return array_column(column.to_numpy(), names, where)


def _class_labels(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Names of ClassLabel columns from the hub's schema metadata; {} where there are none."""
    try:
        info: Any = json.loads((schema.metadata or {})[b"huggingface"])
        features = info["info"]["features"]
        found = {name: feature.get("names") for name, feature in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}  # the metadata are a courtesy; without them classes go by number
    return {
        name: tuple(names)
        for name, names in found.items()
        if isinstance(names, list) and all(isinstance(word, str) for word in names)
    }


def _side(file: Path) -> str:
    """The split that a file's name or folder tells, "" for none."""
    for name in (re.split(r"[-_.0-9]", file.name.lower())[0], file.parent.name.lower()):
        if name in SPLIT_WORDS:
            return name
    return ""
