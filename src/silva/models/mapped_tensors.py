"""The tensors of a model's safetensors files taken together: by name, each in the file it lies in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models import digests
from silva.models.mapped import MappedFile


class MappedTensors:
    """Nothing is read or copied before it is asked for."""

    def __init__(self, files: Sequence[MappedFile], is_ignored: Callable[[str], bool]) -> None:
        """Raises ModelError where a tensor that is not ignored is in two of the files."""
        self._paths = [file.path for file in files]
        self._home: dict[str, MappedFile] = {}
        for file in files:
            for name in file.entries:
                if is_ignored(name):
                    continue
                if name in self._home:
                    raise ModelError(f"tensor {name[:100]} is there twice", where=file.path)
                self._home[name] = file

    def __contains__(self, name: str) -> bool:
        return name in self._home

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """By name."""
        return {name: file.entries[name].shape for name, file in self._home.items()}

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The types that tensors are stored as."""
        return {self.dtype(name) for name in self._home}

    def dtype(self, name: str) -> torch.dtype:
        """The type that a tensor is stored as."""
        return self._home[name].entries[name].dtype

    def tensor(self, name: str) -> Tensor:
        """A tensor as a view of its file."""
        return self._home[name].tensor(name)

    def joined(self, names: Sequence[str]) -> Tensor | None:
        """Several tensors as one view, where they lie one below the other in one file."""
        files = {self._home[name].path: self._home[name] for name in names}
        return next(iter(files.values())).joined(names) if len(files) == 1 else None

    def digest(self) -> str:
        """Of the tensors' content, read in full unless it is remembered. Raises ModelError."""
        return digests.of_files(
            self._paths,
            lambda: digests.weights_digest(
                {n: digests.tensor_digest(n, file.tensor(n)) for n, file in self._home.items()}
            ),
        )
