"""Requests of many clients in one batch get what each would get alone from its own merged model."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import deepseek_cases
import pytest
from engine_world import (
    CONTEXT,
    GREEDY,
    Expected,
    World,
    copy_blocks,
    hand_over,
    oracle,
    tiny,
    tokens_of,
)
from path_cases import CLIENTS, Grove

from silva.control.request import Request
from silva.errors import ServingError
from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model
from silva.models.mixed_language import pack
from silva.serving.engine.tiers import TierError, Tiers

Said = Callable[[str, tuple[int, ...]], Expected]
PROMPTS = [tokens_of(n, n, 89) for n in (1, 5, 16, 33, 70)]


@pytest.fixture(scope="module", params=["llama", "latent"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LanguageModel]:
    """A model of heads with keys of their own, and one of latents, with a module for drafts."""
    folder = tmp_path_factory.mktemp("model") / "model"
    if request.param == "llama":
        return tiny(folder)
    says: dict[str, Any] = {"max_position_embeddings": CONTEXT, "eos_token_id": None}
    return deepseek_cases.save_drafting(folder, **says), load_language_model(folder)


@pytest.fixture(scope="module")
def grove(pair: tuple[Any, LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> Grove:
    return Grove(tmp_path_factory.mktemp("grove") / "objects", pair[1])


@pytest.fixture(scope="module")
def said(pair: tuple[Any, LanguageModel], grove: Grove) -> Said:
    known: dict[tuple[str, tuple[int, ...]], Expected] = {}
    models = {client: grove.stock(pair[0], client) for client in CLIENTS}

    def ask(client: str, prompt: tuple[int, ...]) -> Expected:
        if (client, prompt) not in known:
            known[client, prompt] = oracle(models[client], prompt, 24)
        return known[client, prompt]

    return ask


def world(
    pair: tuple[Any, LanguageModel], grove: Grove, capacity: int = 1 << 20, **settings: Any
) -> World:
    settings = {"drafts": pair[1].config.drafts, **settings}
    return World(
        pair[1], tiers=Tiers(grove.folder, partial(pack, model=pair[1]), capacity), **settings
    )


def everybody() -> list[tuple[str, str, tuple[int, ...]]]:
    asked = [
        (f"{client}/{n}", client, prompt) for client in CLIENTS for n, prompt in enumerate(PROMPTS)
    ]
    random.Random(3).shuffle(asked)
    return asked


def ask_all(here: World, grove: Grove, said: Said) -> None:
    for name, client, prompt in everybody():
        here.ask(name, prompt, path=grove.path(client))
    here.run()
    for name, client, prompt in everybody():
        here.assert_says(name, said(client, prompt))


def test_clients_answer_differently(said: Said) -> None:
    answers = {str([said(client, prompt).tokens for prompt in PROMPTS]) for client in CLIENTS}
    assert len(answers) == len(CLIENTS)


def test_a_mixed_batch(pair: Any, grove: Grove, said: Said) -> None:
    here = world(pair, grove, step_tokens=2048, blocks=2000)
    ask_all(here, grove, said)
    assert max(here.batches) == len(everybody())


@pytest.mark.parametrize("step_tokens", [7, 40])
def test_chunked(pair: Any, grove: Grove, said: Said, step_tokens: int) -> None:
    running = 6 // (1 + pair[1].config.drafts)
    ask_all(world(pair, grove, step_tokens=step_tokens, max_running=running), grove, said)


def test_preempted(pair: Any, grove: Grove, said: Said) -> None:
    here = world(pair, grove, blocks=CONTEXT // 4, step_tokens=40, max_running=12)
    ask_all(here, grove, said)
    assert here.preempted > 0


def test_with_room_for_one_tier_only(pair: Any, grove: Grove, said: Said) -> None:
    here = world(pair, grove, capacity=1, max_running=4)
    ask_all(here, grove, said)
    assert len(here.engine.runner._tiers or ()) == 0


def test_handed_over(pair: Any, grove: Grove, said: Said) -> None:
    prefill, decode = world(pair, grove), world(pair, grove)
    for client in CLIENTS:
        path = grove.path(client)
        hand_over(prefill, decode, {client: (PROMPTS[3], GREEDY)}, path=path)
    decode.run()
    prefill.assert_empty()
    for client in CLIENTS:
        decode.assert_says(client, said(client, PROMPTS[3]))


def test_a_prefix_is_found_by_its_own_path_only(pair: Any, grove: Grove, said: Said) -> None:
    here, prompt = world(pair, grove), PROMPTS[4]
    for client in ("c-0", "c-2", "cluster-0", "base"):
        here.ask(client, prompt, path=grove.path(client))
        here.run()
        assert here.last[client].cached_tokens == 0
    here.ask("again", prompt, path=grove.path("c-0"))
    here.run()
    assert here.last["again"].cached_tokens == 68
    here.assert_says("again", said("c-0", prompt))


def test_an_adapter_that_cannot_be_read_ends_its_own_request_alone(
    pair: Any, grove: Grove, said: Said, tmp_path: Path
) -> None:
    damaged = Grove(tmp_path / "objects", pair[1])
    leaf = damaged.folder / damaged.digests["c-1"]
    leaf.write_bytes(leaf.read_bytes()[:-1] + b"\0")
    (damaged.folder / damaged.digests["c-2"]).unlink()
    here = world(pair, damaged)
    here.ask("sound", PROMPTS[2], path=damaged.path("c-0"))
    for client in ("c-1", "c-2"):
        request = Request(client, PROMPTS[2], GREEDY, path=damaged.path(client))
        for ask in (here.engine.add, here.engine.reserve):
            with pytest.raises(TierError, match="cannot be read"):
                ask(request)
    strange = Request("strange", PROMPTS[2], GREEDY, path=("../../etc/passwd",))
    with pytest.raises(TierError, match="cannot be read"):
        here.engine.add(strange)
    here.run()
    here.assert_says("sound", said("c-0", PROMPTS[2]))


def test_who_waits_for_blocks_holds_its_adapters_though_they_are_erased(
    pair: Any, said: Said, tmp_path: Path
) -> None:
    grove = Grove(tmp_path / "objects", pair[1])
    prefill, decode = world(pair, grove, capacity=1), world(pair, grove, capacity=1)
    tiers, path = decode.engine.runner._tiers, grove.path("c-3")
    assert tiers is not None
    for name in ("given up", "cancelled"):
        request = Request(name, PROMPTS[2], GREEDY, path=path)
        assert decode.engine.reserve(request) is not None and len(tiers) == 3
        gone = decode.engine.abandon if name == "given up" else decode.engine.cancel
        assert gone(name) and len(tiers) == 0
        decode.engine.abandon(name)  # of who is cancelled the blocks may still be read into
    request = Request("waits", PROMPTS[2], GREEDY, path=path)
    given = decode.engine.reserve(request)
    prefill.engine.add(request, hand_over=True)
    for file in grove.folder.iterdir():
        file.unlink()
    while not prefill.hand:
        prefill.step()
    handed = prefill.hand.pop()
    assert given is not None
    copy_blocks(prefill.engine, handed.blocks, decode.engine, given.blocks)
    assert decode.engine.commit(request, handed.sampled.tokens[0])
    assert prefill.engine.release("waits")
    decode.tokens["waits"] = [*handed.sampled.tokens]
    decode.logprobs["waits"] = [*handed.sampled.logprobs]
    decode.run()
    decode.assert_says("waits", said("c-3", PROMPTS[2]))
    assert len(tiers) == 0


def test_a_full_peer_reads_no_adapters_for_who_cannot_come(pair: Any, grove: Grove) -> None:
    here = world(pair, grove, capacity=1, max_running=1)
    first = Request("first", PROMPTS[2], GREEDY, path=grove.path("c-0"))
    assert here.engine.reserve(first) is not None
    tiers = here.engine.runner._tiers
    assert tiers is not None
    read = tiers.read
    for _ in range(5):
        second = Request("second", PROMPTS[2], GREEDY, path=grove.path("c-1"))
        assert here.engine.reserve(second) is None
    assert tiers.read == read and here.engine.abandon("first")


def test_without_a_forest_adapters_are_refused(pair: Any, grove: Grove) -> None:
    here = World(pair[1])
    with pytest.raises(ServingError, match="no forest is served"):
        here.ask("c", PROMPTS[1], path=grove.path("c-0"))
    here.run()


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_at_random_nobody_holds_a_tier(
    pair: Any, grove: Grove, said: Said, seed: int
) -> None:
    draw = random.Random(seed)
    here, left = world(pair, grove, blocks=90, step_tokens=24, max_running=10), everybody()
    while left or here.engine.state.entries:
        if left and draw.random() < 0.6:
            name, client, prompt = left.pop()
            here.ask(name, prompt, path=grove.path(client))
        if draw.random() < 0.3 and here.engine.state.entries:
            here.engine.cancel(draw.choice(list(here.engine.state.entries)))
        here.step()
    here.run()
    tiers = here.engine.runner._tiers
    assert tiers is not None and not any(kept.holders for kept in tiers._kept.values())
    assert not here.engine.runner._mix._paths
    for name, client, prompt in everybody():
        if name in here.finish:
            here.assert_says(name, said(client, prompt))
