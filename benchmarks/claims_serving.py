"""What silva claims of serving, each checked against its result file: claim, measured, holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import common
from serving import CONTINUOUS, GENERATE
from serving_prefix import KINDS
from tuning import Numbers

Judged = tuple[str, bool]
Judge = Callable[[Numbers], Judged | None]
"""None: the result has no such figure."""

CONNECTION_BYTES = 32 << 10
"""Of an open connection whose request is read or refused: objects, buffers of its protocol."""
ANSWER_BYTES = 64 << 10
"""Of an answer under way, which the flood's are short of by far: request, task, queue, text."""


def _tokens(content: Numbers) -> Judged:
    rows = [row for model in content["models"].values() for row in model["modes"].values()]
    equal, prompts = (sum(row[key] for row in rows) for key in ("equal", "prompts"))
    worst = max(row["worst_logprob_difference"] for row in rows)
    return f"{equal} of {prompts}, worst {worst:.0e}", equal == prompts > 0


def _preempted(content: Numbers) -> Judged:
    counts = {name: m["modes"]["preempted"]["preempted"] for name, m in content["models"].items()}
    said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return said, all(counts.values())


def _once(content: Numbers) -> Judged:
    figures = content["figures"]
    worst = [figures[part]["prefix_tokens_computed"] for part in ("in_turn", "together")]
    most = max(spread["max"] for spread in worst)
    return f"{most:.0f} tokens at most", all(s["max"] == content["prefix_tokens"] for s in worst)


def _hit(content: Numbers) -> Judged:
    ratios = {part: content["figures"][part]["ratio"]["median"] for part in KINDS}
    said = ", ".join(f"{KINDS[part]} {ratio:.1f} times" for part, ratio in ratios.items())
    return said, min(ratios.values()) >= 5


def _kept(content: Numbers) -> Judged:
    cached = {KINDS[p]: content["figures"][p]["cached_tokens"]["min"] for p in KINDS}
    whole = content["prefix_tokens"]
    said = ", ".join(f"{kind} {tokens:.0f}" for kind, tokens in cached.items())
    return f"{said} of {whole} tokens", min(cached.values()) >= whole


def _keys(content: Numbers) -> Judged:
    other = content["figures"]["other_key"]["cached_tokens_other_key"]["max"]
    return f"{other:.0f} tokens", other == 0


def _gaps(content: Numbers) -> Judged:
    ratio = content["disaggregated_to_colocated"]["p99"]["median"]
    return f"{ratio:.2f} times", ratio < 1


def _first_token(content: Numbers) -> Judged:
    seconds = content["figures"]["disaggregated"]["first_token_s"]["median"]
    return f"{seconds:.1f} s", seconds <= content["limits"]["first_token_s"]


def _second_peer(content: Numbers) -> Judged:
    rows = [content["figures"][role]["from_command_s"]["median"] for role in ("decode", "prefill")]
    said = f"decode {rows[0]:.1f} s, prefill {rows[1]:.1f} s"
    return said, max(rows) < content["limits"]["second_peer_s"]


def _weights(content: Numbers) -> Judged:
    memory = content["memory"]
    times = memory["total"]["weights_bytes"] / memory["weights_file_bytes"]
    peers = sum(row["weights_resident_bytes"] > 0 for row in memory["processes"].values())
    return f"{times:.2f} times the file, {peers} processes", times <= 1.01


def _overhead(content: Numbers) -> Judged:
    step = content["figures"]["silva, disaggregated"]["step"]
    names = {"policy": "policy", "transfer": "transfer", "front": "API"}
    said = ", ".join(f"{said} {100 * step[n]['median']:.1f} %" for n, said in names.items())
    together = step["overhead"]["median"]
    return f"{said}, together {100 * together:.1f} %", together <= 0.1


def _step(content: Numbers) -> Judged:
    step = content["figures"]["silva, disaggregated"]["step"]
    share = step["overhead"]["median"] + step["sampling"]["median"]
    said = f"{100 * share:.1f} %, of it sampling {100 * step['sampling']['median']:.1f} %"
    return said, share <= 0.1


def _faster_than(
    stock: str, ways: tuple[str, ...] = ("disaggregated", "colocated")
) -> Callable[[Numbers], Judged | None]:
    """Against one way of transformers to generate: the median of the ratios within a repetition."""

    def judge(content: Numbers) -> Judged | None:
        figures = content["figures"]
        if "error" in figures[stock]:
            return f"{stock}: it failed", False
        own = {way: figures.get(f"silva, {way}") for way in ways}
        if not all(own.values()):
            return None
        base = figures[stock]["tokens_per_s"]
        times = {w: common.ratio(row["tokens_per_s"], base)["median"] for w, row in own.items()}
        said = ", ".join(f"{way} {ratio:.2f} times" for way, ratio in times.items())
        return said, min(times.values()) > 1

    return judge


def _target(content: Numbers) -> Judged:
    figures = {int(name): row for name, row in content["figures"].items()}
    order = sorted(figures, key=lambda target: target or 10**9, reverse=True)
    batches = [figures[target]["batch"]["median"] for target in order]
    missed = [
        f"{target} ms"
        for target in order
        # one request alone is let in whatever the target
        if target and figures[target]["batch"]["median"] > 1
        if figures[target]["tpot_p50_ms"]["median"] > target
    ]
    names = (f"{target} ms" if target else "none" for target in order)
    said = ", ".join(f"{name}: {batch:g}" for name, batch in zip(names, batches, strict=True))
    said += f"; missed: {', '.join(missed)}" if missed else ""
    falls = batches == sorted(batches, reverse=True) and batches[-1] < batches[0]
    return said, falls and not missed


def _soak(content: Numbers) -> Judged:
    total = content["total"]
    said = f"{total['kills']:,} kills, {total['equal']:,} of {total['answers']:,} equal"
    left = total["failed"] + total["processes_left"] + total["files_left"]
    whole = total["equal"] == total["answers"] > 0 and total["kills"] == total["kills_wanted"]
    return said, whole and not left and total["legs_with_all_blocks"] == total["legs"]


def _flood(content: Numbers) -> Judged:
    floods = content["floods"]
    known = all(set(row["by_status"]) <= {"200", "429"} for row in floods)
    told = all(
        row["refused_with_retry_after"] == row["by_status"].get("429", 0) > 0
        and row["answered_afterwards"]
        for row in floods
    )
    # The first flood makes room once; later ones must not need more.
    first, last = (floods[n]["rss_peak_bytes"] for n in (0, -1))
    growth = last / first - 1
    held = max(row["rss_peak_bytes"] for row in floods) - floods[0]["rss_before_bytes"]
    most = flood_bound(floods[0]["requests"])
    said = f"{held / 1e6:.0f} MB more than before, {most / 1e6:.0f} allowed"
    said += f"; peak of the last {100 * growth:+.0f} %"
    return said, known and told and growth <= 0.1 and held <= most


def flood_bound(requests: int) -> int:
    """Bytes by which so many requests at once may make the front grow, by the limits it keeps.

    All bodies together, the tokens and text of answers under way, and what a connection takes.
    """
    from silva.serving.api.settings import ApiSettings

    limits = ApiSettings()
    return limits.max_held_bytes + limits.max_answers * ANSWER_BYTES + requests * CONNECTION_BYTES


CLAIMS: dict[str, tuple[str, Judge]] = {
    "served greedy tokens are transformers', log-probabilities within 1e-4": ("tokens", _tokens),
    "of those, with preemptions": ("tokens", _preempted),
    "a prefix of 512 tokens that 32 requests share is computed once": ("prefix", _once),
    "first token of a hit, of whatever kind, at least 5 times sooner than of a miss": (
        "prefix",
        _hit,
    ),
    "another prefill peer, and a server that was restarted, find the whole prefix": (
        "prefix",
        _kept,
    ),
    "another API key finds nothing of it": ("prefix", _keys),
    "long prompts: p99 between tokens lower disaggregated than colocated": (
        "interference",
        _gaps,
    ),
    "first token at most 8 s after the command, weights in the page cache": (
        "start",
        _first_token,
    ),
    "a second peer serves in less than 2 s": ("start", _second_peer),
    "the weights are in memory once": ("start", _weights),
    "batch 32: policy, transfer and API together at most 10 % of a step": (
        "throughput",
        _overhead,
    ),
    "batch 32: at most 10 % of a step outside the model, sampling included": ("throughput", _step),
    "batch 32: more tokens/s than transformers' continuous batching": (
        "throughput",
        _faster_than(CONTINUOUS),
    ),
    "batch 32, all in plain torch: more tokens/s than transformers' continuous batching": (
        "throughput",
        _faster_than(CONTINUOUS, ("colocated, portable",)),
    ),
    "batch 32: more tokens/s than transformers' generate, all prompts of one length": (
        "throughput",
        _faster_than(GENERATE),
    ),
    "a target of 50, 30 or 15 ms a token: a smaller batch, which holds it (median)": (
        "target",
        _target,
    ),
    "1,000 kills: every answer whole and equal, nothing left behind": ("soak", _soak),
    "10,000 requests at once: 200 or 429 with retry-after, memory flat": ("flood", _flood),
}


def rows(results: Path, unmeasured: str) -> Iterable[tuple[str, str, str]]:
    """Claim, what was measured, and whether it holds."""
    for claim, (name, judge) in CLAIMS.items():
        content = common.read_json(results / f"serving-{name}.json")
        judged = judge(content) if content else None
        if judged is None:
            yield claim, unmeasured, unmeasured
            continue
        said, holds = judged
        yield claim, said, "yes" if holds else "no"
