"""Two microbatches of a decode step against one, on a wire that is slow and on one that is not.

    python benchmarks/overlap.py
    python benchmarks/overlap.py --sequences 32 --repeats 3
    python benchmarks/overlap.py --quick

Ranks are processes of one thread each, which share the experts of a random DeepSeek-shaped model.
Each decodes so many sequences of a fixed context, two tokens of each as with drafts, step after
step: vote, model, logits. Every message between ranks, of tokens and of answers, arrives
`--delay-ms` later than it was sent (`silva.experts.delayed`), or as fast as the memory is. In turns
within one run, steps are never split, always split, or as the cost rule has it, which begins
knowing nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from torch import Tensor

    from silva.experts.ranked import RankedModel
    from silva.serving.engine.attend import PagedLatents

SEED, BLOCK_TOKENS = 0, 16
EACH = 2
"""Tokens of a sequence in a step: the last one, and a draft."""
FORMS = {"one": "off", "two": "on", "rule": "auto"}
"""The setting `serve.experts.overlap` by the name of the form."""
SHAPE: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 1024,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 28,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 192,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "max_position_embeddings": 8192,
}
"""The model: on this kind of machine attention and experts of a layer take about as long."""
SMALL = {**SHAPE, "hidden_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 3}


@dataclass(frozen=True)
class Plan:
    """What is measured with one number of sequences."""

    ranks: int
    sequences: int
    """Of each rank."""
    context: int
    """Tokens of each of them."""
    delay_s: float
    steps: int
    """Of one turn of one form."""
    repeats: int
    shape: dict[str, Any]


def save_model(folder: Path, shape: dict[str, Any]) -> Path:
    """A directory with a random model."""
    import torch
    from safetensors.torch import save_file

    from silva.models import deepseek_tensors
    from silva.models.deepseek_config import deepseek_config

    folder.mkdir()
    source = torch.Generator().manual_seed(SEED)
    shapes = deepseek_tensors.shapes(deepseek_config(shape, folder))
    tensors = {name: torch.randn(size, generator=source) * 0.05 for name, size in shapes.items()}
    for name, tensor in tensors.items():
        # Else all tokens would go to the same experts.
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        elif name.endswith("e_score_correction_bias"):
            tensor.zero_()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


class Decoding:
    """A rank that decodes: the same step again and again, of sequences of one length."""

    def __init__(self, ranked: RankedModel, plan: Plan) -> None:
        import torch

        source = torch.Generator().manual_seed(SEED * 1000 + ranked.group.rank)
        self._ranked = ranked
        tokens = EACH * plan.sequences
        self._tokens = torch.randint(ranked.config.vocab_size, (tokens,), generator=source)
        self._positions = torch.arange(plan.context)[-EACH:].repeat(plan.sequences)
        self._attend = paged(ranked, plan, source)

    def step(self) -> Tensor:
        """Hidden states of all sequences; their next tokens are chosen, too."""
        hidden = self._ranked.hidden(self._tokens, self._positions, self._attend)
        self._ranked.logits(hidden).argmax(dim=-1)
        return hidden


def paged(ranked: RankedModel, plan: Plan, source: Any) -> PagedLatents:
    """Attention over blocks with something in them."""
    import numpy as np
    import torch

    from silva.serving.engine.attend import PagedLatents
    from silva.serving.engine.kv import KVMemory, KVShape

    count, width = plan.sequences, -(-plan.context // BLOCK_TOKENS)
    memory = KVMemory(KVShape.of(ranked.config, BLOCK_TOKENS, torch.float32), count * width)
    for latents in memory.latents:
        latents.copy_(torch.randn(latents.shape, generator=source))
    table = np.arange(count * width, dtype=np.int32).reshape(count, width)
    # Blocks of a sequence lie one after the other.
    ends = table[:, :1].astype(np.int64) * BLOCK_TOKENS + plan.context
    places = (ends + np.arange(-EACH, 0)).ravel()
    starts = np.arange(0, EACH * count + 1, EACH, dtype=np.int32)
    return PagedLatents(memory, table, starts, np.full(count, plan.context, np.int32), places)


@contextmanager
def wire(ranked: RankedModel, delay_s: float) -> Iterator[None]:
    """What this rank sends arrives so much later."""
    from silva.experts.delayed import Post
    from silva.experts.moves import make_moves

    if not delay_s:
        yield
        return
    with closing(Post(delay_s)) as post:
        for lane in ranked.group.exchange.lanes:
            lane.rewire(post.moves)
        yield
        for lane in ranked.group.exchange.lanes:
            lane.rewire(make_moves)


def run_rank(rank: int, plan: Plan, model: Path, folder: Path, told: Connection) -> None:
    """One rank's process; tells the seconds of its turns by delay and form."""
    import torch

    from silva.experts.meeting import Meeting
    from silva.experts.spread import Spread, load_ranked

    torch.set_num_threads(1)
    spread = Spread(plan.ranks, 0, local_batch=EACH * plan.sequences, rebalance_s=0.0)
    ranked = load_ranked(model, rank, spread, Meeting(folder, plan.ranks))
    with closing(ranked.group), torch.inference_mode():
        decoding = Decoding(ranked, plan)
        found = {delay: turns(ranked, decoding, plan, delay) for delay in (plan.delay_s, 0.0)}
        told.send((found, worst_difference(ranked, decoding)))


def turns(
    ranked: RankedModel, decoding: Decoding, plan: Plan, delay_s: float
) -> dict[str, list[tuple[float, int]]]:
    """Seconds of each turn and steps that were split in it, by form."""
    from silva.experts.splitting import Splitting

    group, spent = ranked.group, {form: [] for form in FORMS}
    forms = {form: Splitting(group.shape) for form in FORMS}
    for form, overlap in FORMS.items():
        forms[form].overlap = overlap
    with wire(ranked, delay_s):
        for repeat in range(1 + plan.repeats):
            for form, splitting in forms.items():
                group.splitting, split = splitting, 0
                start = time.perf_counter()
                for _ in range(plan.steps):
                    decoding.step()
                    split += splitting.now
                if repeat:  # the first turn of each form warms up
                    spent[form].append((time.perf_counter() - start, split))
    return spent


def worst_difference(ranked: RankedModel, decoding: Decoding) -> float:
    """Of the hidden states of a split step from those of a whole one, over their largest value."""
    made = []
    for overlap in ("off", "on"):
        ranked.group.splitting.overlap = overlap
        made.append(decoding.step())
    return float((made[0] - made[1]).abs().max() / made[0].abs().max())


def measure(plan: Plan) -> dict[str, Any]:
    """All forms with and without the delay, in processes of their own."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="silva-overlap-") as scratch:
        model, folder = save_model(Path(scratch) / "model", plan.shape), Path(scratch) / "run"
        folder.mkdir()
        pipes = [context.Pipe(duplex=False) for _ in range(plan.ranks)]
        ranks = [
            context.Process(target=run_rank, args=(rank, plan, model, folder, says), daemon=True)
            for rank, (_, says) in enumerate(pipes)
        ]
        for process in ranks:
            process.start()
        for _, says in pipes:
            says.close()
        try:
            found = [hears.recv() for hears, _ in pipes]
        except EOFError:
            sys.exit(f"a rank of {plan.ranks} ended early; its error stands above")
        finally:
            for process in ranks:
                process.join(10)
                process.kill()
    return result_of(plan, [spent for spent, _ in found], max(worst for _, worst in found))


def result_of(
    plan: Plan, spent: list[dict[float, dict[str, list[tuple[float, int]]]]], worst: float
) -> dict[str, Any]:
    """The figures of a group: a turn takes as long as its slowest rank."""
    whole = plan.steps * EACH * plan.sequences * plan.ranks
    delays = []
    for delay_s in spent[0]:
        rates = {
            form: [
                whole / max(rank[delay_s][form][n][0] for rank in spent)
                for n in range(plan.repeats)
            ]
            for form in FORMS
        }
        split = [count / plan.steps for _, count in spent[0][delay_s]["rule"]]
        delays.append(
            {
                "delay_s": delay_s,
                "tokens_per_s": {form: common.spread(found) for form, found in rates.items()},
                "ratio": {
                    form: common.spread(
                        [mine / one for mine, one in zip(rates[form], rates["one"], strict=True)]
                    )
                    for form in ("two", "rule")
                },
                "rule_split": split,
            }
        )
    return {
        "ranks": plan.ranks,
        "sequences": plan.sequences,
        "context": plan.context,
        "steps": plan.steps,
        "worst_difference": worst,
        "delays": delays,
    }


def shown(row: dict[str, Any]) -> str:
    """One size as a line for each delay."""
    lines = []
    for found in row["delays"]:
        rates, ratio = found["tokens_per_s"], found["ratio"]
        lines.append(
            f"EP {row['ranks']:<3}{row['sequences']:>4} sequences, {1e3 * found['delay_s']:g} ms"
            f"{rates['one']['median']:>10.0f} tokens/s"
            + "".join(
                f"   {form}: {spread['median']:.3f} times ({spread['min']:.3f} to "
                f"{spread['max']:.3f})"
                for form, spread in ratio.items()
            )
            + f"   split {100 * found['rule_split'][-1]:.0f} %"
        )
    return "\n".join(lines)


def main() -> int:
    os.environ.update(common.environment(1))
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ranks", type=int, default=2, choices=(2, 4, 8))
    sizes = [2, 16, 24, 32]
    parser.add_argument("--sequences", type=int, nargs="+", default=sizes, help="of each rank")
    parser.add_argument("--context", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--delay-ms", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20, help="of a turn of one form")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is published")
    asked = parser.parse_args()
    if asked.quick:
        asked.sequences, asked.context, asked.steps, asked.repeats = [4], 32, 4, 2
    import torch  # noqa: F401 - ranks are forked with what it has imported

    from silva.experts import spread  # noqa: F401

    circumstances = common.facts()
    print(common.heading(circumstances))
    print(
        f"seed      {SEED}\nunits     tokens of all ranks a second; times those of one microbatch\n"
    )
    cases = []
    for count in asked.sequences:
        delay_s = asked.delay_ms / 1e3
        turns_of = (asked.steps, asked.repeats, SMALL if asked.quick else SHAPE)
        row = measure(Plan(asked.ranks, count, asked.context, delay_s, *turns_of))
        print(shown(row), flush=True)
        cases.append(row)
    names = ("ranks", "sequences", "context", "delay_ms", "steps", "repeats")
    usual = {name: parser.get_default(name) for name in names}
    words = [
        f"--{name.replace('_', '-')} "
        + " ".join(map(str, value if isinstance(value, list) else [value]))
        for name, default in usual.items()
        if (value := getattr(asked, name)) != default
    ]
    command = " ".join(["python benchmarks/overlap.py", *words])
    result = {"benchmark": "overlap", "command": command, "seed": SEED, "units": "tokens/s; s"}
    result |= {"repeats": asked.repeats, "shape": SHAPE, "sizes": cases}
    path = (asked.work if asked.quick else asked.results) / "overlap.json"
    common.write_json(path, {**circumstances, **result})
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
