"""What it costs to serve many clients from one batch: against the base alone, and against PEFT.

    python benchmarks/forest_serving.py
    python benchmarks/forest_serving.py --quick

mixed   64 requests at once over 32 clients in 4 clusters (three tiers of rank 8), the same requests
        without adapters, all of them of one client, and PEFT's own mixed batches (`adapter_names`)
        over the same paths as adapters of rank 24, in turns of one run. Prompts of real text,
        greedy, answers of equal length.
many    a small model and 100, 1,000 and 10,000 clients, asked by Zipf's law. A computing process keeps
        the bytes of a thousand leaves. Hit rate, what a leaf that is not there costs, latency, memory.

Both are of one engine in this process, with all cores: the same engine that peers have.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import serving
from serving import SMOLLM2, STORIES

if TYPE_CHECKING:
    from silva.adapters.forest import Forest
    from silva.adapters.tiers import Tier, TierName
    from silva.serving.engine.engine import Engine

Numbers = dict[str, Any]
RANK, CLUSTERS, CLIENTS = 8, 4, 32
ZIPF = 1.1
PEFT, BASE, MIXED, ONE = "PEFT, mixed batch", "base", "mixed, 32 clients", "one client"


@dataclass(frozen=True)
class Load:
    """Requests at a time, how many in all, and their tokens."""

    streams: int
    requests: int
    prompt: int
    answer: int


FULL, QUICK = Load(64, 128, 64, 48), Load(8, 8, 16, 8)
MANY, QUICK_MANY = Load(64, 4000, 24, 8), Load(8, 64, 24, 4)


class Closed:
    """A closed loop over one engine: whoever ends makes room for the next request."""

    def __init__(self, engine: Engine, load: Load) -> None:
        from silva.control.request import SamplingParams

        self._engine, self._load = engine, load
        self._sampling = SamplingParams(temperature=0.0, max_tokens=load.answer)
        self._left: Iterator[tuple[tuple[int, ...], tuple[str, ...]]] = iter(())
        self._begun: dict[str, float] = {}
        self.latencies: list[float] = []
        engine.listener = self  # type: ignore[assignment]

    def run(self, asked: Sequence[tuple[tuple[int, ...], tuple[str, ...]]]) -> float:
        """Ask everything, prompt and path; seconds until the last answer."""
        self._left, self.latencies = iter(asked), []
        start = time.perf_counter()
        for _ in range(self._load.streams):
            self._ask()
        while self._begun:
            self._engine.step()
        return time.perf_counter() - start

    def _ask(self) -> None:
        from silva.control.request import Request

        for prompt, path in self._left:
            name = f"{time.monotonic_ns()}-{len(self._begun)}"
            self._begun[name] = time.perf_counter()
            self._engine.add(Request(name, prompt, self._sampling, path=path))
            return

    def outputs(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            if output.finish is not None:
                self.latencies.append(time.perf_counter() - self._begun.pop(output.request))
                self._ask()

    def failed(self, request: str, error: Exception) -> None:
        sys.exit(f"request {request} failed: {error}")

    def stored(self, blocks: object) -> None:
        """Nobody keeps them: every prompt is computed."""

    lookups = handed = stored


def random_forest(folder: Path, model: Path, clients: int) -> Forest:
    """A forest of random adapters, small enough that the model still writes text."""
    import torch

    from silva.adapters.change import Change, NewClient, NewCluster
    from silva.adapters.forest import Forest
    from silva.adapters.manifest import BaseModel
    from silva.adapters.routing import signature
    from silva.adapters.tiers import NO_HEAD, LoraPair, Tier
    from silva.models.attention_parts import attention_weights
    from silva.models.language_loader import load_language_model
    from silva.models.llama import Llama

    loaded = load_language_model(model)
    assert isinstance(loaded, Llama)
    shapes = {m: w.shape for m, w in attention_weights(loaded, ("q_proj", "v_proj")).items()}

    def tier(name: TierName, seed: int) -> Tier:
        draw = torch.Generator().manual_seed(seed)
        pairs = {
            m: LoraPair(
                B=0.02 * torch.randn(out, RANK, generator=draw),
                A=0.02 * torch.randn(RANK, inner, generator=draw),
            )
            for m, (out, inner) in shapes.items()
        }
        return Tier(name, pairs, NO_HEAD, 2.0)

    def cluster(n: int) -> NewCluster:
        made = tier("cluster", 10 + n)
        return NewCluster(made, signature({m: p.B for m, p in made.pairs.items()}))

    change = Change(
        root=tier("root", 1),
        clusters={f"cluster-{n}": cluster(n) for n in range(CLUSTERS)},
        clients={
            f"c-{n}": NewClient(lambda n=n: tier("leaf", 100 + n), f"cluster-{n % CLUSTERS}")  # type: ignore[misc]
            for n in range(clients)
        },
    )
    adapter = {"rank": RANK, "alpha": 2.0 * RANK, "targets": ["q_proj", "v_proj"]}
    return Forest.create(folder, BaseModel("base", loaded.digest), adapter, None, change)


def path_of(forest: Forest, client: str) -> tuple[str, ...]:
    """Digests of a client's tiers, root first."""
    manifest, entry = forest.manifest, forest.client(client)
    assert entry.cluster is not None and entry.leaf is not None
    return manifest.root, manifest.clusters[entry.cluster].object, entry.leaf


def engine_of(model: Path, forest: Forest, load: Load, adapter_bytes: int) -> Engine:
    from silva.config import build
    from silva.serving.config import ServeConfig
    from silva.serving.engine.listener import Listener
    from silva.serving.make_engine import make_engine

    tree = {
        "forest": str(forest.folder),
        "adapter_bytes": adapter_bytes,
        "step": {"most_running": load.streams},
    }
    return make_engine(
        build(ServeConfig, tree, "benchmark"), model, Listener(), threads=common.cores()
    )


def mixed(model: Path, work: Path, load: Load, times: int) -> Numbers:
    """Tokens a second of every way, in turns."""
    forest = random_forest(work / "forest", model, CLIENTS)
    closed = Closed(engine_of(model, forest, load, 1 << 30), load)
    text, stock = serving.Text(model), Peft(model, forest, work / "peft", load)
    paths = {f"c-{n}": path_of(forest, f"c-{n}") for n in range(CLIENTS)}
    found: dict[str, list[float]] = {name: [] for name in (BASE, MIXED, ONE, PEFT)}
    number = 0
    for turn in range(times + 1):  # the first one warms and does not count
        for name in list(found)[:: -1 if turn % 2 else 1]:
            number += 1
            prompts = [
                tuple(text.cut(1000 * number + n, load.prompt)) for n in range(load.requests)
            ]
            clients = [f"c-{n % CLIENTS}" for n in range(load.requests)]
            if name == PEFT:
                seconds = stock.run(prompts, clients)
            else:
                whose = {BASE: (), ONE: paths["c-0"]}
                asked = [
                    (prompt, whose.get(name, paths[client]))
                    for prompt, client in zip(prompts, clients, strict=True)
                ]
                seconds = closed.run(asked)
            rate = load.requests * load.answer / seconds
            print(f"{name}, {turn}: {rate:.1f} tokens/s", flush=True)
            if turn:
                found[name].append(rate)
    rates = {name: common.spread(rows) for name, rows in found.items()}
    ratios = {name: common.ratio(rates[MIXED], rates[name]) for name in (BASE, ONE, PEFT)}
    return {"load": vars(load), "tokens_per_s": rates, "mixed_to": ratios}


class Peft:
    """Stock transformers and PEFT over the same paths, each an adapter of the summed rank."""

    def __init__(self, model: Path, forest: Forest, work: Path, load: Load) -> None:
        import peft
        import torch
        import transformers

        from silva.adapters.peft import export_peft

        torch.set_num_threads(common.cores())
        transformers.utils.logging.disable_progress_bar()
        base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._load, self._model = load, None
        for n in range(CLIENTS):
            name, place = f"c-{n}", work / f"c-{n}"
            export_peft(forest.path(name), place, base_id="base", class_names=())
            if self._model is None:
                self._model = peft.PeftModel.from_pretrained(
                    base.eval(), str(place), adapter_name=name
                )
            else:
                self._model.load_adapter(str(place), adapter_name=name)
        self._model.eval()

    def run(self, prompts: Sequence[tuple[int, ...]], clients: Sequence[str]) -> float:
        """Static batches of as many requests as run at a time; seconds."""
        import torch

        start, size = time.perf_counter(), self._load.streams
        for first in range(0, len(prompts), size):
            batch = torch.tensor(prompts[first : first + size])
            with torch.inference_mode():
                said = self._model.generate(
                    input_ids=batch,
                    attention_mask=torch.ones_like(batch),
                    adapter_names=list(clients[first : first + size]),
                    do_sample=False,
                    min_new_tokens=self._load.answer,
                    max_new_tokens=self._load.answer,
                    pad_token_id=0,
                )
            assert said.shape[1] == batch.shape[1] + self._load.answer
        return time.perf_counter() - start


def many(model: Path, work: Path, load: Load, registered: Sequence[int]) -> list[Numbers]:
    """One row a number of registered clients."""
    rows = []
    for clients in registered:
        forest = random_forest(work / f"forest-{clients}", model, clients)
        leaf_bytes = statistics.median(
            forest.manifest.objects[e.leaf] for e in forest.manifest.clients.values() if e.leaf
        )
        engine = engine_of(model, forest, load, int(1000 * leaf_bytes))
        closed, tiers = Closed(engine, load), engine.runner._tiers
        assert tiers is not None
        draw = np.random.default_rng(0)
        weights = np.arange(1, clients + 1) ** -ZIPF
        whose = draw.choice(clients, size=load.requests, p=weights / weights.sum())
        text = serving.Text(model)
        asked = [
            (tuple(text.cut(n, load.prompt)), path_of(forest, f"c-{client}"))
            for n, client in enumerate(whose.tolist())
        ]
        closed.run(asked[: load.streams])  # warms torch and the root
        before = (tiers.read, tiers.found)
        seconds = closed.run(asked)
        read, found = tiers.read - before[0], tiers.found - before[1]
        swap_s = swap_seconds(forest, model)
        rows.append(
            {
                "registered": clients,
                "asked": len(set(whose.tolist())),
                "requests": load.requests,
                "ms_a_request": 1e3 * seconds / load.requests,
                "leaf_hit_rate": 1 - read / load.requests,
                "tiers_read": read,
                "tiers_found": found,
                "ms_a_swap": 1e3 * swap_s,
                "latency_p50_s": float(np.percentile(closed.latencies, 50)),
                "latency_p99_s": float(np.percentile(closed.latencies, 99)),
                "leaf_bytes": leaf_bytes,
                "adapter_bytes": tiers.used_bytes,
                "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
        print(rows[-1], flush=True)
    return rows


def swap_seconds(forest: Forest, model: Path) -> float:
    """What a leaf that is not in memory costs: read, checked and packed; the median of a hundred."""
    from silva.adapters.ledger import OBJECTS
    from silva.models.language_loader import load_language_model
    from silva.models.mixed_language import pack
    from silva.serving.engine.tiers import Tiers

    loaded = load_language_model(model)
    tiers = Tiers(forest.folder / OBJECTS, lambda tier: pack(tier, loaded), 0)
    spent = []
    for entry in list(forest.manifest.clients.values())[:100]:
        start = time.perf_counter()
        tiers.hold((entry.leaf or "",))
        spent.append(time.perf_counter() - start)
        tiers.release((entry.leaf or "",))
    return statistics.median(spent)


def main() -> int:
    parser = common.make_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is published")
    parser.add_argument("--scenes", nargs="+", choices=("mixed", "many"), default=["mixed", "many"])
    options = parser.parse_args()
    circumstances = common.facts(("transformers", "peft"))
    print(common.heading(circumstances))
    print("seed      0\nunits     output tokens a second; ms; bytes\n", flush=True)
    stories = serving.folder_of(str((options.data_dir / STORIES).resolve()))
    model = stories if options.quick else serving.folder_of(SMOLLM2)
    load, lots = (QUICK, QUICK_MANY) if options.quick else (FULL, MANY)
    path = options.results / "forest-serving.json"
    result = common.read_json(path) or {"benchmark": "forest-serving"}
    with tempfile.TemporaryDirectory(dir=_work(options.work)) as scratch:
        work = Path(scratch)
        for scene in options.scenes:
            if scene == "mixed":
                found: Any = mixed(model, work, load, 1 if options.quick else 3)
            else:
                sizes = (20, 40) if options.quick else (100, 1000, 10_000)
                found = {
                    "load": vars(lots),
                    "zipf": ZIPF,
                    "rows": many(stories, work, lots, sizes),
                }
            command = f"python benchmarks/forest_serving.py --scenes {scene}"
            result[scene] = {**found, "command": command, "seed": 0, **circumstances}
            if not options.quick:
                common.write_json(path, result)
                print(f"written to {path}")
    return 0


def _work(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
