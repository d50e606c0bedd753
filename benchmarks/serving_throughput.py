"""Tokens a second at batch 32, silva against transformers in turn, and where a step's time goes.

    python benchmarks/serving_throughput.py

silva is asked through its API by a closed loop of 32; transformers computes the same number of
prompts and answers of the same lengths in this process, as static batches of 32 (`generate`) and by
its continuous batching where that runs. All have all cores, one after another, several times. A step
of silva is what its engine's own clock says, from one step to the next; the front's share of it is
the processor time of its main thread, which has the API, the text and the hub.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import common
import serving
from overhead import profile_rows
from serving import SMOLLM2, STORIES, Bench, Numbers

SERVERS = {
    "silva, disaggregated": (),
    "silva, colocated": ("--colocated",),
}
HALF = {"silva, colocated, bfloat16": ("--colocated", "--dtype", "bfloat16")}
"""Where the processor has bfloat16; where it makes it of float32, a run would take hours."""
LOAD: Numbers = {"model": SMOLLM2, "batch": 32, "requests": 64, "prompt": 64, "answer": 48}
QUICK = {"model": STORIES, "batch": 4, "requests": 8, "prompt": 16, "answer": 16}
REPORT_S = 1.0
"""Peers report twice a second."""
SPLIT = ("steps", "step_s", "execute_s", "model_s")


class Silva:
    """One server, and turns of load on it."""

    def __init__(self, server: serving.Server, load: Numbers) -> None:
        self._server, self._load = server, load

    def turn(self, seed: int) -> Numbers:
        from silva.config import build
        from silva.serving.bench.config import BenchConfig
        from silva.serving.bench.measure import summarise
        from silva.serving.bench.run import run

        load = self._load
        closed = {"arrival": "closed", "concurrency": load["batch"], "requests": load["requests"]}
        work = {"input": str(load["prompt"]), "output": str(load["answer"])}
        tree = {"url": self._server.url, "seed": seed, "load": closed | {"warmup": 2}, "work": work}
        before = self._spent()
        summary = summarise(asyncio.run(run(build(BenchConfig, tree, "load"))))
        time.sleep(REPORT_S)
        after = self._spent()
        if summary.failed:
            sys.exit(f"requests failed: {summary.failures}")
        split = {name: after[name] - before[name] for name in after}
        return {"tokens_per_s": summary.output_tokens_per_s, "split": split}

    def _spent(self) -> Numbers:
        """Totals of the peer that decodes, and processor seconds of the front's main thread."""
        decode = [p for p in self._server.status()["peers"] if p["role"] in ("decode", "both")]
        pid = self._server.process.pid
        fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return {
            **{name: sum(peer[name] for peer in decode) for name in SPLIT},
            "front_s": ticks / os.sysconf("SC_CLK_TCK"),
        }


class Stock:
    """transformers in this process."""

    def __init__(self, folder: Path, load: Numbers) -> None:
        import torch
        import transformers

        torch.set_num_threads(common.cores())
        transformers.utils.logging.disable_progress_bar()
        auto = transformers.AutoModelForCausalLM
        self._auto = lambda **how: auto.from_pretrained(folder, dtype=torch.float32, **how).eval()
        self._plain, self._paged, self._load = self._auto(), None, load
        self._plain.generate(torch.tensor([[20] * 8]), max_new_tokens=2, pad_token_id=0)  # warm

    def prompts(self, seed: int) -> list[list[int]]:
        import torch

        draw = torch.Generator().manual_seed(seed)
        shape = (self._load["requests"], self._load["prompt"])
        return torch.randint(20, 500, shape, generator=draw).tolist()

    def generate(self, seed: int) -> Numbers:
        """Static batches."""
        import torch

        prompts, size, answer = self.prompts(seed), self._load["batch"], self._load["answer"]
        start, tokens = time.perf_counter(), 0
        for first in range(0, len(prompts), size):
            batch = torch.tensor(prompts[first : first + size])
            with torch.inference_mode():
                said = self._plain.generate(
                    batch,
                    attention_mask=torch.ones_like(batch),
                    do_sample=False,
                    min_new_tokens=answer,
                    max_new_tokens=answer,
                    pad_token_id=0,
                )
            tokens += said[:, batch.shape[1] :].numel()
        return {"tokens_per_s": tokens / (time.perf_counter() - start)}

    def continuous(self, seed: int) -> Numbers:
        """Continuous batching; the error where it does not run."""
        import torch
        from transformers import ContinuousBatchingConfig, GenerationConfig

        prompts, answer = self.prompts(seed), self._load["answer"]
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=answer, eos_token_id=-1, pad_token_id=0
        )
        batch = self._load["batch"]
        tokens_each = self._load["prompt"] + answer
        sizes = ContinuousBatchingConfig(
            page_size=32,
            num_blocks=batch * -(-tokens_each // 32) + 8,
            max_batch_tokens=max(256, batch),
            max_requests_per_batch=batch,
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
        )
        if self._paged is None:
            self._paged = self._auto(attn_implementation="sdpa")
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                said = self._paged.generate_batch(
                    prompts,
                    generation_config=greedy,
                    continuous_batching_config=sizes,
                    progress_bar=False,
                    warmup=False,
                )
        except Exception as error:
            return {"tokens_per_s": None, "error": f"{type(error).__name__}: {str(error)[:200]}"}
        seconds = time.perf_counter() - start
        tokens = sum(len(each.generated_tokens) for each in said.values())
        wanted = len(prompts) * answer
        if tokens != wanted:
            return {"tokens_per_s": None, "error": f"{tokens} of {wanted} tokens came"}
        return {"tokens_per_s": tokens / seconds}


def profile(folder: Path, load: Numbers) -> list[Numbers]:
    """Functions of one engine at this batch, in this process: without API, peers and messages."""
    from silva.control.request import Request, SamplingParams
    from silva.serving.config import ServeConfig
    from silva.serving.engine.engine import Listener
    from silva.serving.make_engine import make_engine

    engine = make_engine(ServeConfig(), folder, Listener(), threads=common.cores())
    text = serving.Text(folder)
    sampling = SamplingParams(temperature=0.0, max_tokens=load["answer"])
    for n in range(load["batch"]):
        engine.add(Request(str(n), tuple(text.cut(n, load["prompt"])), sampling))
    while engine.counts().decoding < load["batch"]:
        engine.step()
    profiler = cProfile.Profile()
    profiler.enable()
    while engine.counts().decoding == load["batch"]:
        engine.step()
    profiler.disable()
    return profile_rows(profiler)


def shares(rows: list[Numbers]) -> Numbers:
    """Of a step's time, medians over the repetitions: model, sampling, the rest, and the front's."""
    parts: dict[str, list[float]] = {n: [] for n in ("model", "sampling", "rest", "front")}
    for row in rows:
        split = row["split"]
        whole = split["step_s"]
        parts["model"].append(split["model_s"] / whole)
        parts["sampling"].append((split["execute_s"] - split["model_s"]) / whole)
        parts["rest"].append((whole - split["execute_s"]) / whole)
        parts["front"].append(split["front_s"] / whole)
    step = serving.spread(r["split"]["step_s"] / r["split"]["steps"] for r in rows)
    return {"step_s": step, **{name: serving.spread(each) for name, each in parts.items()}}


def main() -> int:
    from silva.models.arithmetic import emulates_bfloat16

    bench = Bench("throughput", __doc__, "output tokens a second; shares of a step")
    load, times = (QUICK, 1) if bench.quick else (LOAD, 3)
    path = bench.model(load["model"])
    folder = serving.folder_of(path)
    found: dict[str, list[Numbers]] = {}
    servers = SERVERS if emulates_bfloat16() else SERVERS | HALF
    with ExitStack() as stack:
        turns: dict[str, Callable[[int], Numbers]] = {}
        for number, (name, options) in enumerate(servers.items()):
            work = bench.folder / f"server-{number}"
            server = stack.enter_context(serving.serving(work, path, *options))
            turns[name] = Silva(server, load).turn
        stock = Stock(folder, load)
        turns["transformers, generate"] = stock.generate
        turns["transformers, continuous batching"] = stock.continuous
        for number in range(times):
            for name in list(turns)[:: -1 if number % 2 else 1]:
                work = lambda t=turns[name], n=number: t(n)  # noqa: E731
                row = bench.measure(f"{name}, {number}", work)
                found.setdefault(name, []).append(row)
                print(f"          {row['tokens_per_s'] or row.get('error')}", flush=True)
    functions = bench.measure("profile", lambda: {"rows": profile(folder, load)})["rows"]
    bench.publish({**content(found), "load": load, "repetitions": times, "profile": functions})
    return 0


def content(found: dict[str, list[Numbers]]) -> Numbers:
    """Throughputs, their ratios to `generate` within a repetition, and the shares of a step."""
    base = [row["tokens_per_s"] for row in found["transformers, generate"]]
    figures: Numbers = {}
    for name in sorted(found):
        rows = found[name]
        values = [row["tokens_per_s"] for row in rows]
        if None in values:
            figures[name] = {"error": next(row["error"] for row in rows if "error" in row)}
            continue
        ratios = (own / other for own, other in zip(values, base, strict=True))
        figures[name] = {"tokens_per_s": serving.spread(values), "ratio": serving.spread(ratios)}
        print(
            f"{name}: {figures[name]['tokens_per_s']['median']:.1f} tokens/s, "
            f"{figures[name]['ratio']['median']:.2f} times generate"
        )
        if "split" in rows[0]:
            figures[name]["step"] = shares(rows)
    return {"figures": figures}


if __name__ == "__main__":
    sys.exit(main())
