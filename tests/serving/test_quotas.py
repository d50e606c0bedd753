"""Quotas of single API keys, from what people write to what a cache peer keeps to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silva.errors import ConfigError
from silva.serving.api.keys import ApiKey
from silva.serving.config import KvConfig, ServeConfig
from silva.serving.peers import cache
from silva.serving.peers.cache import CachePeer
from silva.serving.peers.start import PeerStart
from silva.serving.quotas import parse_quotas, with_quotas

ALICE, BOB = ApiKey("alice", "a" * 64, cache_bytes=0), ApiKey("bob", "b" * 64)


def test_keys_add_to_the_settings() -> None:
    kv = with_quotas(KvConfig(quotas=("carol=2KiB",)), [ALICE, BOB])
    assert parse_quotas(kv.quotas) == {"carol": 2048, "alice": 0}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["alice"], "no quota"),
        (["=5"], "no quota"),
        (["alice=much"], "a size"),
        (["alice=1", "alice=2"], "two quotas"),
    ],
)
def test_mistakes_name_the_setting(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"serve\.kv\.quotas.*{said}"):
        parse_quotas(texts)


def test_a_key_and_a_setting_do_not_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="'alice' has two quotas"):
        with_quotas(KvConfig(quotas=("alice=1GiB",)), [ALICE])


def test_a_cache_peer_keeps_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def stop(config: Any, _: Any) -> None:
        told.append(config.quotas)
        raise ConfigError("enough")

    monkeypatch.setattr(cache, "BlockStore", stop)
    kv = with_quotas(KvConfig(cache_folder=str(tmp_path)), [ALICE])
    config = ServeConfig(kv=kv)
    start = PeerStart("cache-1", "cache", "cache-1/x", tmp_path, tmp_path, config, b"x" * 32, 1, 0)
    with pytest.raises(ConfigError, match="enough"):
        CachePeer(start)
    assert told == [{"alice": 0}]
