import numpy as np
from numpy.typing import NDArray

def projector_overlap(bases: NDArray[np.float32], out: NDArray[np.float64]) -> None: ...
