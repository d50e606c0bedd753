"""One thread a process, no network, no display, a cache folder of its own; where test data lies."""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from silva.models.cache_folder import cache_folder

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# What tests cache goes with them; models that were pulled before are in the user's own cache.
USERS_CACHE = cache_folder()
_scratch = tempfile.TemporaryDirectory(prefix="silva-tests-")
atexit.register(_scratch.cleanup)
os.environ["SILVA_CACHE"] = _scratch.name

# Nothing is timed in a test, and every run of one commit tries the same examples.
settings.register_profile("silva", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("silva")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """The folder of real data sets beside the repository; its tests are skipped where it is not."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def users_cache() -> Path:
    """The cache folder outside of the tests; to be read, never written."""
    return USERS_CACHE
