"""Accuracy over images per client: where sharing pays, and where a client does as well alone.

    python benchmarks/samples.py --samples 10 25 50 100 250 --seeds 0 1 2 --jobs 2

One recipe with only the number of training images a client changed, and with `--rounds 250:10` the
rounds of single points too, where many images make many steps of a round. Writes the numbers and the
picture docs/images/samples-per-client.png: means over clients, bands of one standard deviation
over seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import common
from hilora import add_options, differences, make_jobs, over_seeds
from tuning import Job, Numbers, collect, public, run_all

SAMPLES = (10, 25, 50, 100, 250)
LINES = {
    "tiers.root": ("root", "#9A9A9A", "-"),
    "tiers.cluster": ("root + cluster", "#4C9F70", "-"),
    "tiers.leaf": ("root + cluster + leaf", "#1B5E20", "-"),
    "unseen.zero_leaf": ("unseen client, no training", "#4C9F70", ":"),
    "control.head_only": ("frozen root, own head", "#D98E04", "--"),
    "control.local_pair": ("frozen root, own pair and head", "#B3541E", "--"),
    "control.local_lora": ("own pair and head, nothing shared", "#7B2D8E", "--"),
}
"""Series of the picture: name, colour, dashes."""


def draw(points: Numbers, path: Path, title: str) -> None:
    """Mean accuracy and tail (10th percentile) of every series over images per client."""
    import matplotlib as mpl

    mpl.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt

    samples = sorted(map(int, points))
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), sharex=True, layout="constrained")
    for axis, part in zip(axes, ("mean", "p10"), strict=True):
        for name, (label, colour, dashes) in LINES.items():
            key = name if name.startswith("unseen") else f"{name}.{part}"
            held = [(n, points[str(n)]["over_seeds"].get(key)) for n in samples]
            held = [(n, value) for n, value in held if value]
            if not held or (part == "p10" and name.startswith("unseen")):
                continue
            x = [n for n, _ in held]
            y = 100 * np.array([value["mean"] for _, value in held])
            band = 100 * np.array([value["std"] or 0.0 for _, value in held])
            axis.plot(x, y, dashes, color=colour, label=label, marker="o", markersize=3.5)
            axis.fill_between(x, y - band, y + band, color=colour, alpha=0.12, linewidth=0)
        axis.set_xscale("log")
        axis.set_xticks(samples, [str(n) for n in samples])
        axis.minorticks_off()
        axis.set_xlabel("training images per client")
        axis.set_title({"mean": "mean over clients", "p10": "worst tenth (10th percentile)"}[part])
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy, % of test images")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def main() -> int:
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipe", default="tin32-sc-dir-50")
    parser.add_argument("--samples", type=int, nargs="+", default=list(SAMPLES))
    default = common.ROOT / "docs" / "images" / "samples-per-client.png"
    parser.add_argument("--plot", type=Path, default=default)
    parser.add_argument(
        "--rounds", nargs="+", default=[], metavar="IMAGES:ROUNDS", help="rounds of single points"
    )
    add_options(parser)
    arguments = parser.parse_args()
    circumstances = common.facts()
    print(common.heading(circumstances))
    print(f"seeds     {arguments.seeds}\nunits     accuracies in percent of the test images\n")
    rounds = dict(map(int, pair.split(":")) for pair in arguments.rounds)
    by_size = {n: jobs_of(arguments, n, rounds.get(n)) for n in arguments.samples}
    path = arguments.results / "samples.json"
    jobs = [job for each in by_size.values() for job in each]

    def keep(job: Job) -> None:
        print(f"finished {job.settings[-1]} seed {job.seed}", file=sys.stderr, flush=True)

    failures = run_all(jobs, arguments.jobs, keep, again=arguments.again)
    points: Numbers = {}
    for n, group in by_size.items():
        runs = {str(job.seed): collect(job) for job in group if job.done}
        if runs:
            held = list(runs.values())
            numbers = {"over_seeds": over_seeds(held), "differences": differences(held)}
            points[str(n)] = {"runs": runs, "rounds": rounds.get(n), **numbers}
    if points:
        words = ["python benchmarks/samples.py --recipe", arguments.recipe, "--samples", *points]
        words += [*(["--rounds"] if rounds else []), *arguments.rounds]
        words += ["--seeds", *map(str, arguments.seeds)]
        words += [f"--set {setting}" for setting in public(arguments.settings)]
        result = {"benchmark": "samples", "command": " ".join(words), "recipe": arguments.recipe}
        result |= {"seeds": arguments.seeds, "threads": 1, "units": "fractions"}
        common.write_json(path, {**result, **circumstances, "points": points})
        draw(points, arguments.plot, f"{arguments.recipe}, {len(arguments.seeds)} seeds")
        print_points(points)
        print(f"written to {path}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def jobs_of(arguments: argparse.Namespace, samples: int, rounds: int | None) -> list[Job]:
    """The runs of one point, a seed each; with the recipe's rounds unless others are given."""
    settings = [*arguments.settings, f"data.samples_per_client={samples}"]
    settings += [f"federation.rounds={rounds}"] if rounds else []
    return make_jobs(arguments, arguments.recipe, settings, arguments.seeds)


def print_points(points: Numbers) -> None:
    """Mean accuracy in percent, a line a number of images."""
    for n, point in sorted(points.items(), key=lambda item: int(item[0])):
        numbers = point["over_seeds"]
        cells = [
            f"{label} {100 * numbers[key]['mean']:.1f}"
            for name, (label, _, _) in LINES.items()
            if (key := name if name.startswith("unseen") else f"{name}.mean") in numbers
        ]
        print(f"{n:>5} images: " + ", ".join(cells))


if __name__ == "__main__":
    sys.exit(main())
