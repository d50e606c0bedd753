"""The transfer is chosen by its name."""

from __future__ import annotations

import pytest

from silva.errors import ConfigError
from silva.transfer import open_transfer


@pytest.mark.parametrize("kind", ["shm", "tcp"])
def test_by_name(kind: str) -> None:
    with open_transfer(kind, b"a secret of one run", timeout_s=1.5) as transfer:
        assert (transfer.kind, transfer.timeout_s) == (kind, 1.5)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="shm, tcp"):
        open_transfer("rdma", b"a secret of one run")
