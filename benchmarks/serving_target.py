"""What a target for the time per token costs: the batch that it holds, and the rate that is left.

    python benchmarks/serving_target.py

A closed loop of 32 streams at a server with one prefill and one decode peer, once without target and
once for each of 50, 30 and 15 ms, each on a server of its own, in turn, several times. The batch held
is the median of what the decode peer has running, as it tells twice a second, while all streams are
under way (`serving.Steady`); beside it the most that it had, and how many it said that it lets in. Time
per token is that of each answer, at the client, from its first token to its last: a wait between the
two peers counts.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path

import common
import serving
from serving import STORIES, Bench, Numbers

MADE = "random-9m"
"""A Llama of 9 million random parameters. SmolLM2 in float32 takes longer than any of the targets for
a single token on two cores without bfloat16; what is measured is how the batch follows a target."""
SHAPE = {"hidden_size": 320, "num_hidden_layers": 7, "intermediate_size": 864}
SHAPE |= {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 64}
SHAPE |= {"max_position_embeddings": 1024}
TARGETS_MS = (0, 50, 30, 15)
"""0: none."""
LOAD: Numbers = {"model": MADE, "streams": 32, "requests": 96, "prompt": 64, "answer": 48}
QUICK: Numbers = {"model": STORIES, "streams": 8, "requests": 64, "prompt": 16, "answer": 64}
REPETITIONS = 2


def made(stories: Path, folder: Path) -> Path:
    """The random model, with the tokenizer of `stories`, in `folder`."""
    import torch
    import transformers

    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(stories)
        config.update(SHAPE)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(stories / name, folder / name)
    return folder


def decoding(server: serving.Server) -> Numbers:
    """What the decode peers run at this moment, and how many they say they let decode together."""
    pool = server.status()["pools"]["decode"]
    return {"running": pool["running"], "admitted": (pool["admission"] or {}).get("batch", 0)}


def turn(bench: Bench, path: str, load: Numbers, target_ms: int, seed: int) -> Numbers:
    """One server with this target, and the load on it."""
    options = ("--tpot-target", f"{target_ms}ms") if target_ms else ()
    with serving.serving(bench.folder / "server", path, *options) as server:
        summary, seen = serving.closed_loop(server, load, seed, lambda: decoding(server))
        time.sleep(1.0)  # peers report twice a second
        told = server.status()["pools"]["decode"]["admission"]
    tpot, ttft = summary.tpot_ms, summary.ttft_ms
    if tpot is None or ttft is None:
        sys.exit("no answer had two tokens")
    running = [each["running"] for each in seen]
    return {
        "batch": statistics.median(running),
        "most": max(running),
        "admitted": statistics.median(each["admitted"] for each in seen),
        "tpot_p50_ms": tpot.p50,
        "tpot_p99_ms": tpot.p99,
        "ttft_p50_ms": ttft.p50,
        "ttft_p99_ms": ttft.p99,
        "tokens_per_s": summary.output_tokens_per_s,
        "told": told,
    }


FIGURES = ("batch", "most", "admitted", "tpot_p50_ms", "tpot_p99_ms", "tokens_per_s")
FIGURES += ("ttft_p50_ms", "ttft_p99_ms")


def main() -> int:
    bench = Bench("target", __doc__, "requests; milliseconds; output tokens a second")
    load = QUICK if bench.quick else LOAD
    repetitions = 1 if bench.quick else REPETITIONS
    path = bench.model(STORIES)
    if not bench.quick:
        path = str(made(Path(path), bench.folder / MADE))
    found: dict[int, list[Numbers]] = {target: [] for target in TARGETS_MS}
    for repetition in range(repetitions):
        for target in TARGETS_MS:
            row = bench.measure(
                f"target {target or 'none'} ms, {repetition + 1}",
                lambda t=target, r=repetition: turn(bench, path, load, t, r),
            )
            found[target].append(row)
            print(
                f"          target {target or 'none'}: batch {row['batch']:g} "
                f"({row['admitted']:g} let in), "
                f"time per token {row['tpot_p50_ms']:.1f} ms (p99 {row['tpot_p99_ms']:.1f}), "
                f"{row['tokens_per_s']:.1f} tokens/s, first token {row['ttft_p50_ms']:.0f} ms",
                flush=True,
            )
    figures = {
        str(target): {name: common.spread(row[name] for row in rows) for name in FIGURES}
        for target, rows in found.items()
    }
    # what the server without target said that each target would allow
    foreseen = found[0][-1]["told"]["trades"]
    bench.publish(
        {"load": load, "repetitions": repetitions, "figures": figures, "foreseen": foreseen}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
