"""Tokens a second at batch 32, silva against transformers in turn, and where a step's time goes.

    python benchmarks/serving_throughput.py

silva is asked through its API by a closed loop of 32; transformers computes the same number of
prompts and answers of the same lengths in this process, as static batches of 32 (`generate`) and by
its continuous batching where that runs. All have all cores, one after another, several times.

Where a step's time goes is measured in turns of their own, with longer answers, while all 32 streams
are under way. A step is what the engine's own clock says, from one step to the next. Beside it, in
processor time: the front, which has the API, the text and the hub, and the thread that reads blocks
for the decode peer. Two profiles show the functions: of one engine alone, and of a front under load.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import common
import serving
from overhead import profile_rows
from serving import CONTINUOUS, GENERATE, SMOLLM2, STORIES, Bench, Numbers

from silva.serving.peers.cached import THREAD
from silva.serving.process_name import shown

SERVERS = {
    "silva, disaggregated": (),
    "silva, colocated": ("--colocated",),
    "silva, colocated, portable": ("--colocated", "--set", "serve.kernels=portable"),
}
"""Portable: all arithmetic in plain torch."""
HALF = {"silva, colocated, bfloat16": ("--colocated", "--dtype", "bfloat16")}
"""Where the processor has bfloat16; where it makes it of float32, a run would take hours."""
LOAD: Numbers = {"model": SMOLLM2, "batch": 32, "requests": 64, "prompt": 64, "answer": 48}
QUICK = {"model": STORIES, "batch": 4, "requests": 8, "prompt": 16, "answer": 16}
STEPS: Numbers = {"streams": 32, "requests": 64, "prompt": 64, "answer": 64}
QUICK_STEPS = {"streams": 4, "requests": 64, "prompt": 16, "answer": 64}
PROFILED = Path(__file__).with_name("profiled_front.py")
SPLIT = ("steps", "step_s", "execute_s", "model_s")
"""Of the peers that decode, as they tell it."""
BESIDE = ("transfer_s", "front_s")
PARTS = ("model", "sampling", "policy", "transfer", "front")
OVERHEAD = ("policy", "transfer", "front")


class Silva:
    """One server, and turns of load on it."""

    def __init__(self, server: serving.Server, load: Numbers, steps: Numbers) -> None:
        self._server, self._load, self._steps = server, load, steps

    def turn(self, seed: int) -> Numbers:
        from silva.config import build
        from silva.serving.bench.config import BenchConfig
        from silva.serving.bench.measure import summarise
        from silva.serving.bench.run import run

        load = self._load
        closed = {"arrival": "closed", "concurrency": load["batch"], "requests": load["requests"]}
        work = {"input": str(load["prompt"]), "output": str(load["answer"])}
        tree = {"url": self._server.url, "seed": seed, "load": closed | {"warmup": 2}, "work": work}
        summary = summarise(asyncio.run(run(build(BenchConfig, tree, "load"))))
        if summary.failed:
            sys.exit(f"requests failed: {summary.failures}")
        return {"tokens_per_s": summary.output_tokens_per_s}

    def steps(self, seed: int) -> Numbers:
        """What was spent while the batch was full."""
        _, seen = serving.closed_loop(self._server, self._steps, seed, self._spent)
        split = {name: seen[-1][name] - seen[0][name] for name in (*SPLIT, *BESIDE)}
        if not split["steps"]:
            sys.exit("no step was seen: take a longer load")
        return {**split, "batch": statistics.mean(each["running"] for each in seen)}

    def _spent(self) -> Numbers:
        """Totals of the peers that decode, and processor seconds of what works beside them."""
        decode = [p for p in self._server.status()["peers"] if p["role"] in ("decode", "both")]
        front, apart = self._server.process.pid, decode[0]["role"] == "decode"
        transfers = [seconds_of(peer["pid"], shown(THREAD)) for peer in decode] if apart else []
        return {
            **{name: sum(peer[name] for peer in decode) for name in (*SPLIT, "running")},
            "transfer_s": sum(transfers),
            # Colocated, the process computes as well: there the API has the main thread.
            "front_s": processor_s(
                Path(f"/proc/{front}" if apart else f"/proc/{front}/task/{front}")
            ),
        }


def seconds_of(pid: int, thread: str) -> float:
    """Processor seconds of a process's threads of this name."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    named = (task for task in tasks if (task / "comm").read_text().strip() == thread)
    return sum(processor_s(task) for task in named)


def processor_s(task: Path) -> float:
    """Processor seconds of a process or a thread, by its folder below /proc."""
    fields = (task / "stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    from silva.serving.engine.listener import Listener
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


def profile_front(folder: Path, model: str, load: Numbers) -> list[Numbers]:
    """Functions of the front's main thread under a full load, by processor time."""
    file = folder / "front.profile"
    file.unlink(missing_ok=True)
    silva = (sys.executable, str(PROFILED), str(file))
    with serving.serving(folder / "server", model, silva=silva) as server:
        begun = iter((True,))

        def look() -> Numbers:
            if next(begun, False):
                server.process.send_signal(signal.SIGUSR1)
            return {}

        serving.closed_loop(server, load, 0, look)
        server.process.send_signal(signal.SIGUSR2)
        server.status()  # signals are acted on before the next request
    return profile_rows(str(file))


def shares(rows: list[Numbers]) -> Numbers:
    """Of the time of the steps, over the repetitions; `overhead` is policy, transfer and front."""
    parts: dict[str, list[float]] = {name: [] for name in (*PARTS, "overhead")}
    for row in rows:
        whole = row["step_s"]
        own = {
            "model": row["model_s"] / whole,
            "sampling": (row["execute_s"] - row["model_s"]) / whole,
            "policy": (whole - row["execute_s"]) / whole,
            "transfer": row["transfer_s"] / whole,
            "front": row["front_s"] / whole,
        }
        own["overhead"] = sum(own[name] for name in OVERHEAD)
        for name, share in own.items():
            parts[name].append(share)
    return {
        "step_s": common.spread(row["step_s"] / row["steps"] for row in rows),
        "batch": common.spread(row["batch"] for row in rows),
        **{name: common.spread(each) for name, each in parts.items()},
    }


def main() -> int:
    from silva.models.arithmetic import emulates_bfloat16

    bench = Bench("throughput", __doc__, "output tokens a second; shares of a step")
    load, steps, times = (QUICK, QUICK_STEPS, 1) if bench.quick else (LOAD, STEPS, 3)
    path = bench.model(load["model"])
    folder = serving.folder_of(path)
    found: dict[str, list[Numbers]] = {}
    spent: dict[str, list[Numbers]] = {}
    servers = SERVERS if emulates_bfloat16() else SERVERS | HALF
    with ExitStack() as stack:
        turns: dict[str, Callable[[int], Numbers]] = {}
        split: dict[str, Callable[[int], Numbers]] = {}
        for number, (name, options) in enumerate(servers.items()):
            work = bench.folder / f"server-{number}"
            server = stack.enter_context(serving.serving(work, path, *options))
            silva = Silva(server, load, steps)
            turns[name], split[name] = silva.turn, silva.steps
        stock = Stock(folder, load)
        turns[GENERATE] = stock.generate
        turns[CONTINUOUS] = stock.continuous
        for number in range(times):
            for name in list(turns)[:: -1 if number % 2 else 1]:
                work = lambda t=turns[name], n=number: t(n)  # noqa: E731
                row = bench.measure(f"{name}, {number}", work)
                found.setdefault(name, []).append(row)
                print(f"          {row['tokens_per_s'] or row.get('error')}", flush=True)
        for name, look in split.items():
            spent[name] = [bench.measure(f"steps of {name}", lambda t=look: t(100))]
    functions = bench.measure("profile", lambda: {"rows": profile(folder, load)})["rows"]
    front = bench.measure(
        "profile of the front", lambda: {"rows": profile_front(bench.folder, path, steps)}
    )["rows"]
    profiles = {"profile": functions, "front_profile": front}
    whole = {"load": load, "steps_load": steps, "repetitions": times, **profiles}
    bench.publish({**content(found, spent), **whole})
    return 0


def content(found: dict[str, list[Numbers]], spent: dict[str, list[Numbers]]) -> Numbers:
    """Throughputs by name, and the shares of a step.

    found  turns by name, spent  what was spent in steps, by the names of silva's ways
    """
    base = common.spread(row["tokens_per_s"] for row in found[GENERATE])
    figures: Numbers = {}
    for name in sorted(found):
        rows = found[name]
        values = [row["tokens_per_s"] for row in rows]
        if None in values:
            figures[name] = {"error": next(row["error"] for row in rows if "error" in row)}
            continue
        figures[name] = {"tokens_per_s": (own := common.spread(values))}
        times = common.ratio(own, base)["median"]
        print(f"{name}: {own['median']:.1f} tokens/s, {times:.2f} times generate")
        if name in spent:
            figures[name]["step"] = step = shares(spent[name])
            parts = ", ".join(f"{part} {100 * step[part]['median']:.1f} %" for part in PARTS)
            print(f"  a step at batch {step['batch']['median']:.1f}: {parts}")
    return {"figures": figures}


if __name__ == "__main__":
    sys.exit(main())
