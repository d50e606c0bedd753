"""Clients of one forest, asked at once of real peers: each says what stock PEFT says for it alone."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "engine"), str(HERE.parent / "faults")]

from engine_world import Expected, assert_agrees, oracle, tokens_of  # noqa: E402
from path_cases import random_tier  # noqa: E402
from serving_world import (  # noqa: E402
    CARD,
    VOCABULARY,
    all_ready,
    kill,
    run,
    save_model,
    settings,
    settled,
)
from text_forest import grow  # noqa: E402

from silva.adapters.change import Change, NewClient  # noqa: E402
from silva.adapters.forest import Forest  # noqa: E402
from silva.adapters.peft import export_peft  # noqa: E402
from silva.control.request import Output, Request, SamplingParams  # noqa: E402
from silva.errors import ForestError, SilvaError  # noqa: E402
from silva.models.language_loader import load_language_model  # noqa: E402
from silva.serving.backend import Backend  # noqa: E402
from silva.serving.forest_cards import forest_cards, served_forest  # noqa: E402
from silva.serving.launch import LaunchConfig, live_forest, make_backend  # noqa: E402
from silva.serving.live_forest import LiveForest  # noqa: E402

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, logprobs=0)
PROMPTS = [tokens_of(n, n, VOCABULARY) for n in (3, 20, 45)]
NUMBERS = count()
NAMES = ("tiny", "tiny@root", "tiny@cluster-1", "tiny@c-0", "tiny@c-1", "tiny@c-2", "tiny@far")


@dataclass(frozen=True)
class Grown:
    """A model, a forest on it, and what every name is to say to every prompt."""

    model: Path
    forest: Path
    said: dict[str, list[Expected]]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    import transformers

    folder = tmp_path_factory.mktemp("grown")
    model = save_model(folder / "tiny")
    forest = grow(folder / "forest", model)
    said = {}
    for name in NAMES:
        stock = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
        stock.generation_config.eos_token_id = None
        _, _, client = name.partition("@")
        if client:
            where = folder / "peft" / client
            export_peft(forest.path(client), where, base_id="tiny", class_names=())
            stock = peft.PeftModel.from_pretrained(stock, str(where)).eval()
        said[name] = [oracle(stock, prompt, GREEDY.max_tokens) for prompt in PROMPTS]
    return Grown(model, forest.folder, said)


def launched(grown: Grown, cache: Path, **changes: object) -> Backend:
    return launched_live(grown, cache, **changes)[1]


def launched_live(grown: Grown, cache: Path, **changes: object) -> tuple[LiveForest, Backend]:
    serve = settings(cache, forest=str(grown.forest), silence_s=60.0, **changes)
    config = LaunchConfig(model=str(grown.model), name="tiny", serve=serve)

    def fail(error: SilvaError) -> None:
        raise error

    live = live_forest(config, grown.model, served_forest(grown.forest))
    return live, make_backend(config, grown.model, fail, live)


async def ask(backend: Backend, id_: str, name: str, prompt: tuple[int, ...]) -> list[Output]:
    card = backend.model(name)
    assert card is not None
    request = Request(id_, prompt, GREEDY, path=card.path)
    return [output async for output in backend.generate(request)]


async def ask_all(backend: Backend, grown: Grown, what: str) -> int:
    """Everybody at once; prompt tokens that were found in the cache."""
    asked = [(name, n) for n in range(len(PROMPTS)) for name in NAMES]
    answers = await asyncio.gather(
        *(ask(backend, f"{what}/{name}/{n}", name, PROMPTS[n]) for name, n in asked)
    )
    for (name, n), outputs in zip(asked, answers, strict=True):
        tokens = [token for output in outputs for token in output.tokens]
        logprobs = [logprob for output in outputs for logprob in output.logprobs]
        assert_agrees(f"{what} {name} {n}", tokens, logprobs, grown.said[name][n])
    return sum(outputs[-1].cached_tokens for outputs in answers)


def test_every_name_says_something_else(grown: Grown) -> None:
    told = {name: str([each.tokens for each in said]) for name, said in grown.said.items()}
    assert len(set(told.values())) == len(NAMES)


def test_peers_answer_all_clients_in_one_batch_also_from_the_cache_and_after_a_kill(
    grown: Grown, tmp_path: Path
) -> None:
    async def scene() -> None:
        front = launched(grown, tmp_path)
        await front.open()  # type: ignore[attr-defined]
        try:
            await all_ready(front)  # type: ignore[arg-type]
            first = await ask_all(front, grown, "first")
            assert await ask_all(front, grown, "again") > first
            for role in ("decode", "prefill"):
                busy = asyncio.create_task(ask_all(front, grown, f"while {role} dies"))
                await asyncio.sleep(0.05)
                await kill(front, role)  # type: ignore[arg-type]
                await busy
            await settled(front)  # type: ignore[arg-type]
        finally:
            await front.close(0.0)

    run(scene())


def test_a_new_version_takes_over_under_load_and_goes_back(grown: Grown, tmp_path: Path) -> None:
    """Every answer is of one version: the one that was answered for when it was asked."""
    import shutil

    import transformers

    folder = tmp_path / "forest"
    shutil.copytree(grown.forest, folder)
    live, backend = launched_live(replace(grown, forest=folder), tmp_path)
    leaf = random_tier(load_language_model(grown.model), "leaf", 77)
    change = Change(clients={"c-0": NewClient(leaf, "cluster-1")})
    stock = transformers.AutoModelForCausalLM.from_pretrained(grown.model).eval()
    stock.generation_config.eos_token_id = None

    async def said() -> list[str]:
        answers = await asyncio.gather(
            *(ask(backend, f"{next(NUMBERS)}", "tiny@c-0", prompt) for prompt in PROMPTS * 4)
        )
        return [str([t for each in outputs for t in each.tokens]) for outputs in answers]

    async def scene() -> None:
        await backend.open()  # type: ignore[attr-defined]
        try:
            await all_ready(backend)  # type: ignore[arg-type]
            old = await said()
            under_way = asyncio.create_task(said())
            await asyncio.sleep(0.03)
            grown_forest = Forest.load(folder).commit(change)
            live.reload()
            backend.offer(live.cards)
            new = await said()
            live.show(1)
            backend.offer(live.cards)
            assert await said() == old and await under_way == old != new
            export_peft(grown_forest.path("c-0"), tmp_path / "p", base_id="x", class_names=())
            theirs = peft.PeftModel.from_pretrained(stock, str(tmp_path / "p")).eval()
            expected = [oracle(theirs, prompt, GREEDY.max_tokens) for prompt in PROMPTS]
            assert [str(each.tokens) for each in expected] * 4 == new
        finally:
            await backend.close(0.0)

    run(scene())


def test_one_engine_answers_the_same(grown: Grown, tmp_path: Path) -> None:
    async def scene() -> None:
        one = launched(grown, tmp_path, colocated=True)
        await one.open()  # type: ignore[attr-defined]
        try:
            await ask_all(one, grown, "colocated")
        finally:
            await one.close(0.0)

    run(scene())


def test_cards_are_base_root_clusters_and_clients_with_their_parents(
    grown: Grown, tmp_path: Path
) -> None:
    backend = launched(grown, tmp_path)
    cards = {card.id: (card.parent, card.root, len(card.path)) for card in backend.models()}
    assert list(cards.items()) == [
        ("tiny", (None, None, 0)),
        ("tiny@root", ("tiny", "tiny", 1)),
        ("tiny@cluster-0", ("tiny@root", "tiny", 2)),
        ("tiny@cluster-1", ("tiny@root", "tiny", 2)),
        ("tiny@c-0", ("tiny@cluster-0", "tiny", 3)),
        ("tiny@c-1", ("tiny@cluster-1", "tiny", 3)),
        ("tiny@c-2", ("tiny@cluster-0", "tiny", 3)),
        ("tiny@far", ("tiny@root", "tiny", 2)),
    ]


def test_a_forest_on_other_weights_and_one_of_images_are_refused(
    grown: Grown, tmp_path: Path
) -> None:
    forest = Forest.load(grown.forest)
    with pytest.raises(ForestError, match="other weights than those of tiny"):
        forest_cards(CARD, forest, "00" * 32)
    sys.path.insert(0, str(HERE.parent / "adapters"))
    from forest_cases import make_forest

    make_forest(tmp_path / "images")
    with pytest.raises(ForestError, match="a forest of images, and the model"):
        served_forest(tmp_path / "images")
    with pytest.raises(ForestError, match="not a forest"):
        served_forest(tmp_path / "absent")
