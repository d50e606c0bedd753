"""The server of `silva demo`: `silva serve` in a process of its own, asked over HTTP."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-c", "from silva.cli.main import run; run()")
READY = "silva: serving at "
"""Begins the line that `silva serve` prints when it can be asked."""
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Served:
    """A server of this demo."""

    url: str
    base: str
    """What it calls the model without adapters."""
    process: subprocess.Popen[str]

    def classify(self, client: str, pictures: Sequence[bytes]) -> list[dict[str, Any]]:
        """The best class of each PNG file by the model of a client: its label and probability."""
        import httpx

        images = [base64.b64encode(picture).decode() for picture in pictures]
        body = {"model": f"{self.base}@{client}", "images": images, "top_k": 1}
        answer = httpx.post(f"{self.url}/v1/classify", json=body, timeout=PATIENCE_S)
        answer.raise_for_status()
        return [shown["classes"][0] for shown in answer.json()["data"]]


@contextmanager
def served(backbone: str, forest: Path, port: int) -> Iterator[Served]:
    """Serve a forest of images until the block ends; clients it does not know are the root's.

    Raises ServingError when the server ends before it can be asked; it has said why.
    """
    import httpx

    from silva.errors import ServingError

    words = ["serve", backbone, "--forest", str(forest), "--port", str(port)]
    words += ["--unknown-client", "root"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith(READY)), "")
            if not line:
                raise ServingError("the server did not start", remedy="see what it said above")
            url = line.removeprefix(READY).strip().removesuffix("/v1")
            listed = httpx.get(f"{url}/v1/models", timeout=PATIENCE_S).json()
            yield Served(url, listed["data"][0]["id"], process)
        finally:
            process.terminate()
