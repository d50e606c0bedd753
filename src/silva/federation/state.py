"""State of an unfinished run, on disk in `forest.run/`: written after every round, resumed exactly.

    state.json            stage, counters, labels, record; names the tensor file that belongs to it
    tensors-<n>.safetensors   pairs and heads of root and clusters, written where they changed
    distances-<n>.safetensors   between clients, from which the clusters came
    clients/<index>.<kind>-<n>.safetensors   per-client state (bases, leaves, local heads)

A file is never changed once `state.json` names it. A new state writes new files first and replaces
`state.json` last, when they are on the disk, and only then lets go of the old ones: a kill at any
moment, a full disk or a power cut leaves the previous state whole. Every file carries a checksum of its
content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from silva.adapters.files import sync
from silva.adapters.tiers import Head, LoraPair
from silva.errors import RunError
from silva.federation.record import Clustering, RunRecord
from silva.federation.state_files import (
    canonical,
    digest_of,
    read_tensors,
    refused,
    replace_text,
    sha256,
    write_json,
    write_tensors,
)

FORMAT = 4
"""Version of all that lies in the folder; a state of another one is refused. Before 2 the clients'
running means did not count their rounds, and the run would go on to another result; before 3 the
distances between clients were part of every state; before 4 heads knew nothing of others' labels."""
SYNCS = 8
"""Files that are made durable at a time."""
STAGES = ("root", "clustering", "cluster", "leaf", "unseen", "done")


@dataclass
class TierState:
    """One group's tier while it grows: its pairs and head, and how long it has stood still."""

    pairs: dict[str, LoraPair]
    head: Head
    calm_rounds: int = 0
    stopped: bool = False


@dataclass
class RunState:
    """Where a run stands. `files` names each client's current file by kind: {"ema": {"c-1": 7}}."""

    stage: str = "root"
    round: int = 0
    total_rounds: int = 0
    root: TierState | None = None
    clusters: list[TierState] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    files: dict[str, dict[str, int]] = field(default_factory=dict)
    record: RunRecord = field(default_factory=RunRecord)

    def advance(self, stage: str) -> None:
        """Go on to another stage, at its first round."""
        self.stage, self.round = stage, 0


@dataclass(frozen=True)
class _Kept:
    """A file that states share for as long as its content does not change: its number and digest.

    of: what the content was taken from, where that tells sooner that it is the same.
    """

    number: int = 0
    digest: str = ""
    of: object = None


class RunFolder:
    """Reads and writes the state of one run; clients are known by number, never by name."""

    def __init__(self, path: Path, clients: list[str]) -> None:
        self.path = path
        self._index = {name: n for n, name in enumerate(clients)}
        self._kept = {"tensors": _Kept(), "distances": _Kept()}
        self._fresh: list[Path] = []

    def create(self, settings: Mapping[str, Any]) -> None:
        """Make the folder with the run's settings; RunError where something lies there already."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            there = {entry.name for entry in self.path.iterdir()}
        except OSError as error:
            raise refused(error, self.path) from error
        if "settings.json" in there:
            raise RunError(
                "an unfinished run lies here",
                where=self.path,
                remedy="go on with --resume, or remove the folder",
            )
        if there - {"clients", "settings.tmp"}:  # these a kill leaves of this very function
            raise RunError(
                "something lies here that is no run",
                where=self.path,
                remedy="choose another --out, or remove the folder",
            )
        try:
            (self.path / "clients").mkdir(exist_ok=True)
            write_json(self.path / "settings.json", settings)
        except OSError as error:
            raise refused(error, self.path) from error

    def save(self, state: RunState) -> None:
        """Write `state` as a whole; the previous state stays until the new one is complete.

        Root and clusters are frozen for most of a run: what has not changed stays where it lies.
        """
        tensors: dict[str, Tensor] = {}
        if state.root is not None:
            _pack(tensors, "root", state.root)
        for n, cluster in enumerate(state.clusters):
            _pack(tensors, f"cluster-{n}", cluster)
        before = self._kept
        now = {
            "tensors": self._keep("tensors", tensors),
            "distances": self._keep_distances(state.record.clustering),
        }
        record = state.record.as_dict()
        (record["clustering"] or {}).pop("distances", None)
        groups = [t for t in (state.root, *state.clusters) if t is not None]
        content = {
            "format": FORMAT,
            **{kind: kept.number for kind, kept in now.items()},
            "stage": state.stage,
            "round": state.round,
            "total_rounds": state.total_rounds,
            "calm": [[g.calm_rounds, g.stopped] for g in groups],
            "clusters": len(state.clusters),
            "labels": state.labels,
            "files": state.files,
            "record": record,
        }
        try:
            self._sync()
            text = canonical(content)
            replace_text(
                self.path / "state.json", f'{{"checksum":"{sha256(text)}","content":{text}}}'
            )
        except OSError as error:
            raise refused(error, self.path) from error
        self._kept = now
        for kind, kept in before.items():
            if kept.number != now[kind].number:
                self._shared(kind, kept.number).unlink(missing_ok=True)
        self._drop_stale(state)

    def load(self) -> RunState:
        """The last complete state.

        Raises RunError when there is none, it is damaged or of another version of silva.
        """
        path = self.path / "state.json"
        try:
            stored = json.loads(path.read_text())
            data = stored.get("content", stored)  # before 3 they lay side by side
            if data["format"] != FORMAT:
                raise RunError(
                    "the run was begun by another version of silva",
                    where=path,
                    remedy="remove the folder and start again",
                )
            if stored["checksum"] != sha256(canonical(data)):
                raise ValueError("its checksum does not match")
            tensors = self._read_shared("tensors", int(data["tensors"]))
            if data["record"]["clustering"]:
                distances = self._read_shared("distances", int(data["distances"]))["all"]
                data["record"]["clustering"]["distances"] = distances.tolist()
            state = RunState(
                stage=data["stage"],
                round=data["round"],
                total_rounds=data["total_rounds"],
                labels=data["labels"],
                files=data["files"],
                record=RunRecord.from_dict(data["record"]),
            )
            names = ["root", *(f"cluster-{n}" for n in range(data["clusters"]))]
            for name, (calm, stopped) in zip(names, data["calm"], strict=False):
                tier = _unpack(tensors, name)
                tier.calm_rounds, tier.stopped = calm, stopped
                if name == "root":
                    state.root = tier
                else:
                    state.clusters.append(tier)
        except FileNotFoundError as error:
            raise RunError(
                "no run to resume", where=self.path, remedy="start one without --resume"
            ) from error
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            SafetensorError,
        ) as error:
            raise RunError(
                f"the saved state is damaged ({error})",
                where=path,
                remedy="remove the folder and start again",
            ) from error
        if state.stage not in STAGES:
            raise RunError(f"unknown stage {state.stage!r}", where=path, remedy="start again")
        return state

    def put(self, state: RunState, kind: str, client: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a new file of one client; it counts once `save` has named it."""
        number = state.files.get(kind, {}).get(client, -1) + 1
        self._write(self._client_file(kind, client, number), tensors, digest_of(tensors))
        state.files.setdefault(kind, {})[client] = number

    def get(self, state: RunState, kind: str, client: str) -> dict[str, Tensor] | None:
        """The client's current tensors of that kind, or None when it has none."""
        number = state.files.get(kind, {}).get(client)
        if number is None:
            return None
        path = self._client_file(kind, client, number)
        try:
            return read_tensors(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise RunError(
                f"a client's saved state is damaged ({error})",
                where=path,
                remedy="remove the run's folder and start again",
            ) from error

    def _keep(self, kind: str, tensors: Mapping[str, Tensor], of: object = None) -> _Kept:
        """Write a new file of that kind unless the last one holds the same."""
        kept, digest = self._kept[kind], digest_of(tensors)
        if digest == kept.digest:
            return kept
        self._write(self._shared(kind, kept.number + 1), tensors, digest)
        return _Kept(kept.number + 1, digest, of)

    def _keep_distances(self, clustering: Clustering | None) -> _Kept:
        """They come once, with the clustering: a record that is the last one's is not looked into."""
        kept = self._kept["distances"]
        if clustering is None or clustering is kept.of:
            return kept
        distances = torch.tensor(clustering.distances, dtype=torch.float64)
        return self._keep("distances", {"all": distances}, clustering)

    def _shared(self, kind: str, number: int) -> Path:
        return self.path / f"{kind}-{number}.safetensors"

    def _read_shared(self, kind: str, number: int) -> dict[str, Tensor]:
        tensors = read_tensors(self._shared(kind, number))
        self._kept[kind] = _Kept(number, digest_of(tensors))
        return tensors

    def _client_file(self, kind: str, client: str, number: int) -> Path:
        return self.path / "clients" / f"{self._index[client]:06d}.{kind}-{number}.safetensors"

    def _write(self, path: Path, tensors: Mapping[str, Tensor], digest: str) -> None:
        write_tensors(path, tensors, digest)
        self._fresh.append(path)

    def _sync(self) -> None:
        """What was written since the last state lies on the disk, under its names, before returning.

        Side by side, since a file system can commit at once what waits for it at the same time.
        Folders follow when all files are there.
        """
        with ThreadPoolExecutor(SYNCS) as pool:
            for paths in (self._fresh, {path.parent for path in self._fresh}):
                list(pool.map(sync, paths))
        self._fresh = []

    def _drop_stale(self, state: RunState) -> None:
        """Remove client files that the saved state no longer names."""
        for kind, current in state.files.items():
            for client, number in current.items():
                if number > 0:
                    self._client_file(kind, client, number - 1).unlink(missing_ok=True)


def pack_pairs(pairs: Mapping[str, LoraPair]) -> dict[str, Tensor]:
    """Pairs as flat tensors by key "pair.<module>.A" and ".B"."""
    return {
        f"pair.{name}.{side}": getattr(pair, side).contiguous()
        for name, pair in pairs.items()
        for side in ("A", "B")
    }


def unpack_pairs(tensors: Mapping[str, Tensor]) -> dict[str, LoraPair]:
    """Inverse of `pack_pairs`; other keys are ignored."""
    names = sorted({k[5:-2] for k in tensors if k.startswith("pair.")})
    return {n: LoraPair(B=tensors[f"pair.{n}.B"], A=tensors[f"pair.{n}.A"]) for n in names}


def pack_head(head: Head) -> dict[str, Tensor]:
    return {"head.weight": head.weight.contiguous(), "head.bias": head.bias.contiguous()}


def unpack_head(tensors: Mapping[str, Tensor]) -> Head:
    return Head(weight=tensors["head.weight"], bias=tensors["head.bias"])


def _pack(tensors: dict[str, Tensor], name: str, tier: TierState) -> None:
    for key, value in {**pack_pairs(tier.pairs), **pack_head(tier.head)}.items():
        tensors[f"{name}/{key}"] = value


def _unpack(tensors: Mapping[str, Tensor], name: str) -> TierState:
    own = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}
    return TierState(pairs=unpack_pairs(own), head=unpack_head(own))
