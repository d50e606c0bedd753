"""`silva demo` with texts: writers of two kinds, tuned and served on SmolLM2 where it is here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from silva.cli.demo_server import PATIENCE_S, Served, served

BACKBONE = "smollm2"
SETTINGS: dict[str, Any] = {
    "data": {
        "partition": "by_folder",
        "unseen": 0.0,
        "window": 48,
        "samples_per_client": 4,
        "test_per_client": 3,
    },
    "federation": {
        "measure_every": 0,
        "controls": [],
        "local": {"lr": 0.01},
        "root": {"rounds": 1},
        "cluster": {"rounds": 1},
        "leaf": {"rounds": 1, "rate": 1.0},
        "clustering": {"rule": "fixed", "k": 2},
    },
}
"""Few and short windows: 135 million parameters are many for two cores."""
LETTERS = 8000
"""Of each writer's text, at most."""
PROMPT = "The argument"


def present(name: str) -> bool:
    """Whether a known model is in the cache, so that nothing has to be fetched."""
    from silva.models.library import Library

    return any(entry.origin.name == name for entry in Library().entries())


def writers() -> dict[str, str]:
    """Texts that come with Python: two writers of its manual, two of its code."""
    import inspect
    import json.decoder
    import textwrap
    from pydoc_data.topics import topics

    manual = [topics[name] for name in sorted(topics)]
    half = len(manual) // 2
    return {
        "manual-1": "\n".join(manual[:half])[:LETTERS],
        "manual-2": "\n".join(manual[half:])[:LETTERS],
        "code-1": inspect.getsource(textwrap)[:LETTERS],
        "code-2": inspect.getsource(json.decoder)[:LETTERS],
    }


def show_texts(where: Path, seed: int, backbone: str = BACKBONE) -> None:
    """Tune a forest of four writers at `where`, serve it, and let several continue one text."""
    from silva import api
    from silva.cli.progress import stages
    from silva.cli.summary import print_summary
    from silva.config import build

    print(f"The same with texts on {backbone}: two clients write manuals, two write Python.\n")
    with tempfile.TemporaryDirectory(prefix="silva-demo-") as folder:
        write_texts(Path(folder), writers())
        data = {**SETTINGS["data"], "path": folder}
        tree = {**SETTINGS, "backbone": backbone, "seed": seed, "data": data}
        with stages() as show:
            api.tune(build(api.TuneConfig, tree, "demo"), where, show)
    print_summary(where)
    with served(backbone, where, 0) as server:
        print(f"\n{PROMPT!r} goes on")
        for client in ("", "root", "manual-1", "code-1"):
            model = f"{server.base}@{client}" if client else server.base
            print(f"  {'as ' + (client or 'the base'):<12} {_said(server, model)!r}")
    print()


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """A folder for each writer, with one file."""
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "text.txt").write_text(text, encoding="utf-8")


def _said(server: Served, model: str) -> str:
    import httpx

    body = {"model": model, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=PATIENCE_S)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["text"])
