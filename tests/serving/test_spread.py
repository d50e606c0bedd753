"""Settings of decode peers that share experts: what becomes of them, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from deepseek_tiny import TINY

from silva.config import build
from silva.errors import ConfigError
from silva.experts.spread import Spread
from silva.models.deepseek_config import DeepseekConfig, deepseek_config
from silva.serving.config import ServeConfig
from silva.serving.launch import LaunchConfig, launch
from silva.serving.spread import Ranks, check_model, numerics, peers_of, spread_of

PREFILL = {"experts": {"prefill_ranks": 2}}
PREFILL_AT = "serve.experts.prefill_ranks"


def shape(**changes: Any) -> DeepseekConfig:
    return deepseek_config({**TINY, "model_type": "deepseek_v3", **changes}, "config.json")


def asked(ranks: int, **experts: Any) -> ServeConfig:
    return build(ServeConfig, {"experts": {"ranks": ranks, **experts}}, "test")


def test_settings_become_a_spread() -> None:
    config = asked(4, wire="int8", redundant=2, rebalance_s=0.0, overlap="off")
    assert spread_of(config, "decode") == Spread(4, 2, "int8", 64, 0.0, "off")
    assert spread_of(asked(4), "decode") == Spread(4)
    assert spread_of(asked(4, prefill_ranks=2), "prefill") == Spread(2, staged=True)
    assert peers_of(config, "decode") == 4
    assert peers_of(build(ServeConfig, {"pools": {"decode": 3}}, "test"), "decode") == 3
    assert peers_of(asked(4, prefill_ranks=2), "prefill") == 2


def test_blocks_of_rounded_tokens_are_other_blocks() -> None:
    kinds = [asked(1), asked(1, wire="int8"), asked(4), asked(4, wire="int8")]
    assert [numerics(config) for config in kinds] == ["", "", "", " wire=int8"]
    assert numerics(asked(1, prefill_ranks=4, wire="int8")) == " wire=int8"


def test_a_new_peer_is_the_rank_of_one_that_has_left() -> None:
    ranks = Ranks()
    names = ["decode-1", "decode-2", "decode-3"]
    assert [ranks.of(name, names) for name in names] == [0, 1, 2]
    assert ranks.of("decode-2", names) == 1  # another process of the same peer
    assert ranks.of("decode-4", [*names, "decode-4"]) == 3
    assert ranks.of("decode-5", ["decode-1", "decode-3", "decode-4", "decode-5"]) == 1


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"colocated": True}, "serve.experts.ranks", "leave --ep or --colocated out"),
        ({"roles": {"auto": True}}, "serve.experts.ranks", "leave --ep or --auto-roles out"),
        ({"pools": {"decode": 2}}, "serve.experts.ranks", "ask for --decode 1"),
        ({"forest": "forest"}, "serve.experts.ranks", "leave --ep or --forest out"),
        ({"stuck_s": 20.0}, "serve.experts.patience_s", "below serve.stuck_s"),
        ({"colocated": True, **PREFILL}, PREFILL_AT, "leave --prefill-ep or --colocated out"),
        ({"roles": {"auto": True}, **PREFILL}, PREFILL_AT, "--prefill-ep or --auto-roles out"),
        ({"pools": {"prefill": 2}, **PREFILL}, PREFILL_AT, "2 prefill peers .* --prefill 1"),
        ({"forest": "forest", **PREFILL}, PREFILL_AT, "leave --prefill-ep or --forest out"),
        ({"stuck_s": 20.0, **PREFILL}, "serve.experts.patience_s", "below serve.stuck_s"),
    ],
)
def test_what_does_not_go_with_ranks_is_refused_before_anything_is_loaded(
    changes: dict[str, Any], where: str, what: str
) -> None:
    serve = {"experts": {"ranks": 2}, **changes}
    with pytest.raises(ConfigError, match=what) as caught:
        launch(build(LaunchConfig, {"serve": serve}, "test"), nullcontext(Path("nowhere")))
    assert caught.value.where == where


def test_memory_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silva.serving.memory.available_bytes", lambda: 6 << 20)
    kv = {"peer_bytes": 1 << 20, "cache_ram_bytes": 1 << 20}
    serve: dict[str, Any] = {"kv": kv}
    for experts, count in (({"ranks": 8}, 9), ({"ranks": 4, "prefill_ranks": 4}, 8)):
        tree = {"serve": serve | {"experts": experts}}
        with pytest.raises(ConfigError, match=f"{count} computing peers"):
            launch(build(LaunchConfig, tree, "test"), nullcontext(Path("nowhere")))


@pytest.mark.parametrize(
    ("ranks", "changes", "what"),
    [
        (32, {}, "32 ranks for 16 experts; use at most 16: see --ep"),
        (3, {}, "16 experts do not divide among 3 ranks; there may be 1, 2, 4, 8, 16: see --ep"),
        (2, {"first_k_dense_replace": 3}, "this model has no experts"),
    ],
)
def test_ranks_that_do_not_fit_the_model_are_refused(
    ranks: int, changes: dict[str, Any], what: str
) -> None:
    check_model(asked(1), shape(**changes))
    with pytest.raises(ConfigError, match=what) as caught:
        check_model(asked(ranks), shape(**changes))
    assert caught.value.where == "serve.experts.ranks"


@pytest.mark.parametrize(
    ("ranks", "changes", "what"),
    [
        (32, {}, "32 ranks for 16 experts; use at most 16: see --prefill-ep"),
        (3, {}, "16 experts do not divide among 3 ranks; .*: see --prefill-ep"),
        (8, {}, "8 ranks for 4 heads; use at most 4: see --prefill-ep"),
        (2, {"first_k_dense_replace": 3}, "this model has no experts .* leave --prefill-ep out"),
    ],
)
def test_ranks_that_cannot_share_prompts_are_refused(
    ranks: int, changes: dict[str, Any], what: str
) -> None:
    check_model(asked(8, prefill_ranks=4), shape())
    with pytest.raises(ConfigError, match=what) as caught:
        check_model(asked(1, prefill_ranks=ranks), shape(**changes))
    assert caught.value.where == PREFILL_AT


def test_a_directory_is_refused_before_it_is_converted(tmp_path: Path) -> None:
    raw = {**TINY, "model_type": "deepseek_v3"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    tree = {"model": str(tmp_path), "serve": {"experts": {"ranks": 3}}}

    @contextmanager
    def converted() -> Iterator[Path]:
        pytest.fail("too early")
        yield tmp_path

    with pytest.raises(ConfigError, match="do not divide among 3 ranks"):
        launch(build(LaunchConfig, tree, "test"), converted())


def test_ranks_that_fit_the_model_are_let_through() -> None:
    for ranks in (2, 4, 8, 16):
        check_model(asked(ranks), shape())
    check_model(asked(8, wire="int8"), shape())


def test_a_model_of_another_kind_has_no_experts() -> None:
    with pytest.raises(ConfigError, match=r"no experts .*; leave --ep out"):
        check_model(asked(2), cast(Any, object()))


def test_a_size_that_does_not_go_in_int8_is_refused() -> None:
    odd = shape(hidden_size=42)
    check_model(asked(2), odd)
    with pytest.raises(ConfigError, match="leave --wire int8 out") as caught:
        check_model(asked(2, wire="int8"), odd)
    assert caught.value.where == "serve.experts.wire"
