"""The tables of the section Serving of docs/validation.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import common
from gfm import MISSING, code, plain, provenance, table
from serving import CONTINUOUS, GENERATE
from serving_prefix import KINDS
from tuning import Numbers


def block(name: str, show: Callable[[Numbers], list[str]]) -> Callable[[Path], str]:
    """A block of the page: what `show` makes of a result, and where the result comes from."""

    def rendered(results: Path) -> str:
        content = common.read_json(results / f"serving-{name}.json")
        if not content:
            return MISSING + code(f"python benchmarks/serving_{name}.py")
        return "\n\n".join((*show(content), provenance(content)))

    return rendered


def over(spread: Numbers, scale: float = 1.0, digits: int = 0) -> str:
    """Median and range over repetitions."""
    low, high = scale * spread["min"], scale * spread["max"]
    return f"{scale * spread['median']:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def tokens(content: Numbers) -> list[str]:
    rows = []
    for model, entry in sorted(content["models"].items()):
        for mode, row in entry["modes"].items():
            rows.append(
                (
                    plain(f"{model}, {mode}"),
                    f"{row['equal']} of {row['prompts']}",
                    f"{row['ties']}",
                    f"{row['tokens_compared']}",
                    f"{row['worst_logprob_difference']:.1e}",
                    f"{row['cached_tokens']:,}",
                    f"{row['preempted']}",
                )
            )
    heads = ("model, way of serving", "prompts equal", "with a tie", "tokens compared")
    heads += ("worst difference of log-probability", "prompt tokens cached", "preemptions")
    return [table(heads, rows)]


def prefix(content: Numbers) -> list[str]:
    figures, whole = content["figures"], content["prefix_tokens"]
    turn, together, other = figures["in_turn"], figures["together"], figures["other_key"]
    computed = "prefix_tokens_computed"
    rows = [
        ("prefix tokens computed, one after another", over(turn[computed])),
        ("prefix tokens computed, all at once", over(together[computed])),
        ("all at once: median first token, ms", over(together["median_ttft_s"], 1e3)),
        ("the same prompt, same key: tokens cached", over(other["cached_tokens_same_key"])),
        ("the same prompt, another key: tokens cached", over(other["cached_tokens_other_key"])),
    ]
    head = f"{content['requests']} requests, {whole} common tokens, {content['model']}"
    hits = [
        (
            kind,
            over(figures[part]["miss_ttft_s"], 1e3),
            over(figures[part]["hit_ttft_s"], 1e3),
            over(figures[part]["ratio"], digits=1),
            over(figures[part]["cached_tokens"]),
        )
        for part, kind in KINDS.items()
    ]
    heads = ("a hit's blocks come from", "first token of a miss, ms", "of a hit, ms")
    heads += ("miss / hit", "tokens cached")
    times = f"median (range) of {content['repetitions']}"
    return [table((head, times), rows), table(heads, hits)]


def interference(content: Numbers) -> list[str]:
    figures, load = content["figures"], content["load"]
    names = {
        "p99_ms": "p99 between tokens, ms",
        "p50_ms": "median between tokens, ms",
        "p99_alone_ms": "p99 without long prompts, ms",
        "tokens_per_s": "tokens/s of the streams",
        "tokens_per_s_alone": "the same without long prompts",
        "long_ttft_ms": "first token of long prompts, ms",
    }
    rows = [
        (name, *(over(figures[mode][key]) for mode in ("disaggregated", "colocated")))
        for key, name in names.items()
    ]
    ratios = content["disaggregated_to_colocated"]
    said = (
        f"{load['streams']} streams of {load['stream_answer']} tokens; a prompt of "
        f"{load['long_prompt']:,} tokens every {load['seconds_between']:g} s; {load['model']}; "
        f"{load['repetitions']} repetitions. Disaggregated / colocated: p99 between tokens "
        f"{over(ratios['p99'], digits=2)}, tokens/s {over(ratios['tokens_per_s'], digits=2)}."
    )
    return [said, table(("median (range)", "disaggregated", "colocated"), rows)]


def start(content: Numbers) -> list[str]:
    figures = content["figures"]
    rows = [
        (f"command to first token, {mode}", over(figures[mode]["first_token_s"], digits=2))
        for mode in ("disaggregated", "colocated")
    ]
    for role in ("decode", "prefill"):
        row = figures[role]
        rows += [
            (f"`silva scale` to a second {role} peer", over(row["from_command_s"], digits=2)),
            ("of that, after the request arrived", over(row["from_request_s"], digits=2)),
        ]
    heads = (content["model"], f"seconds, median (range) of {content['repetitions']}")
    memory = content["memory"]
    parts = {**memory["processes"], "all": {"count": "", **memory["total"]}}
    sizes = [
        (
            plain(f"{name} ({row['count']})" if name == "helper" else name),
            *(
                f"{row[key] / 1e6:,.0f}"
                for key in ("bytes", "weights_bytes", "weights_resident_bytes")
            ),
        )
        for name, row in sorted(parts.items(), key=lambda part: (part[0] == "all", part[0]))
    ]
    columns = ("process", "proportional set, MB", "of it weights, MB", "weights resident, MB")
    file = f"The file of the weights has {memory['weights_file_bytes'] / 1e6:,.0f} MB."
    return [table(heads, rows), table(columns, sizes), file]


def throughput(content: Numbers) -> list[str]:
    figures, load = content["figures"], content["load"]
    rows, steps = [], []
    stocks = (GENERATE, CONTINUOUS)

    def times(own: Numbers, stock: str) -> str:
        """How many times what transformers does, as the claims have it."""
        other = figures[stock].get("tokens_per_s")
        return over(common.ratio(own, other), digits=2) if other else "-"

    for name, row in figures.items():
        if "error" in row:
            rows.append((plain(name), plain(row["error"]), *("-" for _ in stocks)))
            continue
        own = row["tokens_per_s"]
        rows.append((plain(name), over(own, digits=1), *(times(own, n) for n in stocks)))
        if "step" in row:
            step = row["step"]
            cells = (over(step["batch"], digits=1), over(step["step_s"], 1e3, 1))
            parts = ("model", "sampling", "policy", "transfer", "front", "overhead")
            cells += tuple(over(step[part], 100, 1) for part in parts)
            steps.append((plain(name), *cells))
    heads = ("", "output tokens/s", *(f"to {stock}" for stock in stocks))
    said = (
        f"Batch {load['batch']}, {load['requests']} requests of {load['prompt']} + "
        f"{load['answer']} tokens, {load['model']}, {content['repetitions']} repetitions."
    )
    columns = ("a step", "batch", "ms", "model %", "sampling %", "policy, messages %")
    columns += ("transfer beside it %", "API beside it %", "policy, transfer, API %")
    own, front = ("profile", "function, one engine"), ("front_profile", "function, the front")
    profiles = [_functions(content[key], head) for key, head in (own, front)]
    load = content["steps_load"]
    steps_said = (
        f"Steps: {load['streams']} streams, {load['requests']} requests of {load['prompt']} + "
        f"{load['answer']} tokens."
    )
    return [said, table(heads, rows), steps_said, table(columns, steps), *profiles]


def _functions(rows: list[Numbers], head: str) -> str:
    cells = [
        (
            plain(row["function"]),
            f"{row['calls']:,}",
            f"{100 * row['own_share']:.1f}",
            f"{100 * row['cumulative_share']:.1f}",
        )
        for row in rows
    ]
    return table((head, "calls", "own %", "with callees %"), cells)


def target(content: Numbers) -> list[str]:
    figures, load = content["figures"], content["load"]
    foreseen = {f"{1e3 * row['target_s']:g}": row for row in content["foreseen"]}
    rows = []
    for name, row in figures.items():
        before = foreseen.get(name)
        rows.append(
            (
                f"{name} ms" if name != "0" else "none",
                over(row["batch"]),
                over(row["most"]),
                over(row["admitted"]),
                over(row["tpot_p50_ms"], digits=1),
                over(row["tpot_p99_ms"], digits=1),
                over(row["tokens_per_s"], digits=1),
                over(row["ttft_p50_ms"]),
                f"{before['batch']}, {before['tokens_per_s']:,.0f}" if before else "-",
            )
        )
    heads = (
        "target",
        "batch held",
        "at most",
        "let in, it says",
        "ms a token, median",
        "p99",
        "tokens/s",
        "first token, ms",
    )
    heads += ("foreseen: batch, tokens/s",)
    said = (
        f"A closed loop of {load['streams']} streams, {load['requests']} requests of "
        f"{load['prompt']} + {load['answer']} tokens, {load['model']}; median (range) of "
        f"{content['repetitions']}. *Foreseen* is what the server without target shows as the trade."
    )
    return [said, table(heads, rows)]


def soak(content: Numbers) -> list[str]:
    total = content["total"]
    roles = ", ".join(f"{role} {n}" for role, n in total["kills_by_role"].items())
    rows = [
        ("kills", f"{total['kills']:,} of {total['kills_wanted']:,} ({roles})"),
        ("answers", f"{total['answers']:,}"),
        ("equal to the undisturbed ones", f"{total['equal']:,}"),
        ("failed", f"{total['failed']:,}"),
        ("requests computed again", f"{total['retries']:,}"),
        (
            "lives of the server after which all blocks were free",
            f"{total['legs_with_all_blocks']} of {total['legs']}",
        ),
        ("processes left behind", f"{total['processes_left']}"),
        ("files, sockets and shared memory left behind", f"{total['files_left']}"),
        ("minutes", f"{total['seconds'] / 60:.1f}"),
    ]
    return [table((f"{content['streams']} streams, {content['model']}", ""), rows)]


def flood(content: Numbers) -> list[str]:
    rows = []
    for number, row in enumerate(content["floods"], 1):
        by_status = ", ".join(f"{status}: {n:,}" for status, n in row["by_status"].items())
        sizes = (f"{row[f'rss_{when}_bytes'] / 1e6:.0f}" for when in ("before", "peak", "after"))
        told = f"{row['refused_with_retry_after']:,}"
        again = "yes" if row["answered_afterwards"] else "no"
        rows.append((str(number), by_status, told, f"{row['seconds']:.1f}", *sizes, again))
    heads = ("flood", "requests by status", "with retry-after", "seconds")
    heads += ("MB before", "at most", "after", "answers afterwards")
    return [table(heads, rows)]


BLOCKS: dict[str, Callable[[Path], str]] = {
    f"serving-{show.__name__}": block(show.__name__, show)
    for show in (tokens, prefix, interference, start, throughput, target, soak, flood)
}
