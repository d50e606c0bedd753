from __future__ import annotations

from typing import Any

import pytest

from silva.config import build
from silva.errors import ConfigError
from silva.serving.config import ServeConfig
from silva.serving.images.settings import check_settings


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"pools": {"prefill": 2}}, "serve.pools.prefill"),
        ({"colocated": True}, "serve.colocated"),
        ({"dtype": "bfloat16"}, "serve.dtype"),
        ({"kv": {"quotas": ["a=1MiB"]}}, "serve.kv.quotas"),
    ],
)
def test_what_is_said_about_peers_is_refused(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match="server of images") as caught:
        check_settings(build(ServeConfig, tree, "test"))
    assert where in str(caught.value)


def test_what_applies_is_taken_and_so_is_what_is_usual() -> None:
    tree = {"threads": 1, "forest": "f", "unknown_client": "root", "pools": {"prefill": 1}}
    check_settings(build(ServeConfig, tree, "test"))
