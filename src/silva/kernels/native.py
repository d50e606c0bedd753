"""The Python file before the compiled operators: checks, choice of backend, fallback.

Operators on torch's tensors are in paged.py, so that this one can be imported without torch.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from silva.errors import MissingExtraError
from silva.kernels import reference

try:
    from silva.kernels import _native as _found
except ImportError:
    _compiled: ModuleType | None = None
else:
    _compiled = _found

Backend = Literal["auto", "native", "portable"]
"""auto: native where it was built, else portable; both agree to float32 rounding."""

REMEDY = "install a C++ compiler and silva again for the fast path, or ask for `portable`"


def native_loaded() -> bool:
    """Whether the compiled operators were built and can be imported."""
    return _compiled is not None


def compiled() -> ModuleType | None:
    """The compiled module of operators, for the other Python files before it; None: not built."""
    return _compiled


def projector_overlap(bases: ArrayLike, backend: Backend = "auto") -> NDArray[np.float64]:
    """Mean over modules of ||U_i^T U_j||_F^2 / r for every pair of clients: float64 [n, n].

    `bases` [n, m, p, r] holds, for n clients and m modules, r orthonormal columns of length p; they
    are read as float32. The result is symmetric, in [0, 1], and 1 where two clients span the same
    subspaces; one minus it is the distance of LoRA-Subspace Adaptive Clustering (HiLoRA eq. 8).

    Raises ValueError for another number of dimensions or an empty array, MissingExtraError when
    `native` is asked for and was not built.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, not {backend!r}")
    if backend == "native" and _compiled is None:
        raise MissingExtraError("the native module was not built", remedy=REMEDY)
    array = np.ascontiguousarray(bases, dtype=np.float32)
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"bases must be [n, m, p, r] and not empty, not {np.shape(bases)}")
    if backend == "portable" or _compiled is None:
        return reference.projector_overlap(array)
    out = np.empty((len(array), len(array)))
    _compiled.projector_overlap(array, out)
    return out
