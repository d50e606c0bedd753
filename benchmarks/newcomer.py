"""A client never seen joins a forest of images that is served: how soon, how well, at whose cost.

    python benchmarks/newcomer.py --forest FOREST --data DATA
    python benchmarks/newcomer.py --forest FOREST --data DATA --clients 4 --window 5

FOREST was grown by `silva tune` on DATA with clients held out (`--unseen`). The server works on a copy.
Each held-out client comes again under another name, sends examples drawn from its own, and is

timed   from the first byte of its examples to the server's reply, and to the answer to a picture that
        it asks for then
routed  by subspace, compared with the cluster whose model has the least loss on the same examples
judged  on its test images: root (before), root + cluster (after routing), with a leaf (after tuning)

Then leaves are tuned while another client asks for one picture after another: latency with and
without, in windows of one run.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import serving

if TYPE_CHECKING:
    import httpx

    from silva.data.nouns import ImageDataset

Numbers = dict[str, Any]
AT_ONCE, TIMEOUT_S, LOOK_S = 32, 600.0, 0.1


@dataclass(frozen=True)
class Held:
    """One held-out client: examples and test images, as PNG in base64, and names of classes."""

    name: str
    images: list[str]
    labels: list[str]
    tests: list[str]
    truths: list[str]

    @property
    def body(self) -> Numbers:
        pairs = zip(self.images, self.labels, strict=True)
        return {"examples": [{"image": image, "label": label} for image, label in pairs]}


def held_out(forest: Path, data: str, examples: int, most: int) -> tuple[str, list[Held]]:
    """The model under a forest, and the clients that its run held out, dealt as the run dealt them."""
    import numpy as np

    from silva.config import build
    from silva.data.open import open_dataset
    from silva.federation.assembly import deal
    from silva.federation.tune import TuneConfig
    from silva.models.registry import load_backbone

    told = json.loads((forest / "report" / "run.json").read_text())["config"]
    config = build(TuneConfig, told, forest)
    dataset = open_dataset(data, split=config.data.split, labels=config.data.labels)
    side = load_backbone(config.backbone).side
    clients = deal(config.data, config.seed, dataset).held_out[:most]
    if not clients:
        sys.exit(f"{forest} was grown without clients held out (--unseen)")
    held = []
    for client in clients:
        # in the partition's order they may be of few classes
        train = np.random.default_rng(0).permutation(client.train)[:examples]
        test = client.test
        held.append(
            Held(
                f"again-{client.name}",
                _pngs(dataset, train, side, client.style),
                [dataset.class_names[c] for c in dataset.labels[train]],
                _pngs(dataset, test, side, client.style),
                [dataset.class_names[c] for c in dataset.labels[test]],
            )
        )
    return config.backbone, held


def _pngs(dataset: ImageDataset, rows: Any, side: int, style: str) -> list[str]:
    from PIL import Image

    from silva.data.styles import apply_style

    files = []
    for pixels in apply_style(dataset.source.load(rows, side), style, rows):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        files.append(base64.b64encode(content.getvalue()).decode())
    return files


class Asker:
    """One connection to the server."""

    def __init__(self, url: str, model: str) -> None:
        import httpx

        self._client, self._model = httpx.Client(base_url=url, timeout=TIMEOUT_S), model

    def post(self, path: str, **more: Any) -> Numbers:
        answer: httpx.Response = self._client.post(path, **more)
        if answer.is_error:
            sys.exit(f"{path}: {answer.text}")
        found: Numbers = answer.json()
        return found

    def best(self, client: str, images: Sequence[str]) -> list[str]:
        """The most probable class of each image."""
        body = {"model": f"{self._model}@{client}", "images": list(images), "top_k": 1}
        return [
            each["classes"][0]["label"] for each in self.post("/v1/classify", json=body)["data"]
        ]

    def accuracy(self, client: str, held: Held) -> float:
        """Of a name of the forest on a client's test images."""
        found: list[str] = []
        for start in range(0, len(held.tests), AT_ONCE):
            found += self.best(client, held.tests[start : start + AT_ONCE])
        return sum(a == b for a, b in zip(found, held.truths, strict=True)) / len(found)

    def leaf(self, client: str) -> Numbers:
        """What the server says of a client's leaf."""
        told = self._client.get("/admin/v1/forest").json()["leaves"]
        [found] = [each for each in told if each["client"] == client]
        return dict(found)


def least_loss(forest: Path, model: str, held: Held) -> str:
    """The cluster whose model has the least mean loss on the client's examples (IFCA's rule)."""
    import numpy as np

    from silva.adapters.forest import Forest
    from silva.data.labelled import LabelledFiles
    from silva.data.nouns import ClientRows, Partition
    from silva.federation.material import image_material
    from silva.models.registry import load_backbone

    grown = Forest.load(forest)
    files = tuple(base64.b64decode(image) for image in held.images)
    dataset = LabelledFiles(files, tuple(held.labels)).dataset(grown.class_names)
    material = image_material(load_backbone(model), dataset)
    rows = ClientRows(held.name, np.arange(len(dataset)), np.empty(0, dtype=np.int64))
    train = material.clients(Partition("", (rows,))).train(held.name)
    losses = {}
    for cluster in grown.clusters:
        path = grown.path(cluster)
        losses[cluster] = material.task.mean_loss(train, material.task.merged(path), path.head)
    return min(losses, key=lambda name: losses[name])


def join_all(asker: Asker, forest: Path, model: str, clients: Sequence[Held]) -> list[Numbers]:
    """Every client joins, is timed and compared."""
    rows = []
    for held in clients:
        before = asker.accuracy("root", held)
        content = json.dumps(held.body).encode()
        start = time.perf_counter()
        told = asker.post(
            "/admin/v1/forest/clients",
            params={"client": held.name},
            content=content,
            headers={"content-type": "application/json"},
        )
        replied = time.perf_counter()
        asker.best(held.name, held.tests[:1])
        answered = time.perf_counter()
        by_loss = least_loss(forest, model, held)
        rows.append(
            {
                "client": held.name,
                "examples": len(held.images),
                "reply_s": replied - start,
                "answer_s": answered - start,
                "cluster": told["cluster"],
                "by_loss": by_loss,
                "root": before,
                "cluster_accuracy": asker.accuracy(held.name, held),
            }
        )
        print(f"{held.name}: {told['cluster']} in {replied - start:.2f} s, by loss {by_loss}")
    return rows


class Load:
    """One client that asks for one picture after another, until the end; its latencies."""

    def __init__(self, asker: Asker, image: str) -> None:
        self._asker, self._image = asker, image
        self.latencies_s: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            start = time.perf_counter()
            self._asker.best("root", [self._image])
            self.latencies_s.append((start, time.perf_counter() - start))

    def within(self, windows: Sequence[tuple[float, float]]) -> Numbers:
        """Latency of requests that began in any of the windows."""
        found = sorted(s for at, s in self.latencies_s if any(a <= at < b for a, b in windows))
        p99 = found[min(len(found) - 1, int(0.99 * len(found)))]
        return {
            "requests": len(found),
            "seconds": sum(b - a for a, b in windows),
            "p50_ms": 1e3 * statistics.median(found),
            "p99_ms": 1e3 * p99,
        }


def tune_all(
    asker: Asker, other: Asker, clients: Sequence[Held], rows: list[Numbers], window_s: float
) -> Numbers:
    """Leaves one after another with a quiet window before each; the load's latency in both."""
    quiet, tuning = [], []
    with Load(other, clients[0].tests[0]) as load:
        for held, row in zip(clients, rows, strict=True):
            start = time.perf_counter()
            time.sleep(window_s)
            begun = time.perf_counter()
            asker.post(f"/admin/v1/forest/clients/{held.name}/leaf", json=held.body)
            while (state := asker.leaf(held.name)["state"]) in ("queued", "tuning"):
                time.sleep(LOOK_S)
            ended = time.perf_counter()
            if state != "live":
                sys.exit(f"no leaf of {held.name}: {asker.leaf(held.name)['why']}")
            quiet.append((start, begun))
            tuning.append((begun, ended))
            row["leaf_s"] = ended - begun
    for held, row in zip(clients, rows, strict=True):
        row["leaf_accuracy"] = asker.accuracy(held.name, held)
    return {"quiet": load.within(quiet), "tuning": load.within(tuning)}


def summary(rows: Sequence[Numbers]) -> Numbers:
    """Medians of seconds, means of accuracies, share of clients on whose cluster both rules agree."""
    seconds = {name: [row[name] for row in rows] for name in ("reply_s", "answer_s", "leaf_s")}
    means = {
        name: statistics.fmean(row[name] for row in rows)
        for name in ("root", "cluster_accuracy", "leaf_accuracy")
    }
    return {
        "clients": len(rows),
        "agreement": statistics.fmean(row["cluster"] == row["by_loss"] for row in rows),
        **{f"{name}_p50": statistics.median(values) for name, values in seconds.items()},
        **{f"{name}_max": max(values) for name, values in seconds.items()},
        **means,
    }


def main() -> int:
    parser = common.make_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--forest", type=Path, required=True, help="a forest with held-out clients")
    parser.add_argument("--data", required=True, help="the data it was grown on")
    parser.add_argument("--examples", type=int, default=20, help="examples that a client sends")
    parser.add_argument("--clients", type=int, default=1000, help="held-out clients at most")
    parser.add_argument("--window", type=float, default=10.0, help="seconds without a leaf tuned")
    parser.add_argument("--name", default="newcomer", help="of the JSON file")
    options = parser.parse_args()
    circumstances = common.facts()
    print(common.heading(circumstances))
    print("units     s; ms; fractions of test images\n", flush=True)
    model, clients = held_out(options.forest, options.data, options.examples, options.clients)
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        copy = Path(shutil.copytree(options.forest, Path(scratch) / "forest"))
        with serving.serving(Path(scratch) / "server", model, "--forest", str(copy)) as server:
            name = Path(model).stem
            asker, other = Asker(server.url, name), Asker(server.url, name)
            asker.best("root", clients[0].tests[:AT_ONCE])  # the first pass of a process is slow
            rows = join_all(asker, copy, model, clients)
            beside = tune_all(asker, other, clients, rows, options.window)
    found = {"summary": summary(rows), "beside": beside, "clients": rows}
    print(json.dumps({name: found[name] for name in ("summary", "beside")}, indent=1))
    path = options.results / f"{options.name}.json"
    command = f"python benchmarks/newcomer.py --forest FOREST --data {Path(options.data).name}"
    about = {"benchmark": "newcomer", "command": command, "examples": options.examples}
    common.write_json(path, {**about, **found, **circumstances})
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
