"""Whether adapters exported for transformers 4 give silva's logits in a real transformers 4.

    python benchmarks/transformers4.py --forest forest --python /path/to/python

`--python` is an interpreter of an environment with transformers 4, peft and torch; silva, which needs
transformers 5 for other things, is not needed there. A client's path goes out as one adapter and as a
stack of tiers; the other interpreter loads the base model and each of them, and computes the logits of
the same pixels. Exit code 1 when a logit differs by more than a millionth of the largest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

LARGEST_SHARE = 1e-6
"""Of the largest logit: what a difference may be in float32."""


def ours(forest: Path, client: str, folder: Path) -> tuple[str, Path]:
    """Write pixels, silva's logits and both exports to `folder`; the client and its base model."""
    import numpy as np
    import torch

    from silva.adapters.forest import Forest
    from silva.data.open import open_dataset
    from silva.models.adapted import adaptation_of
    from silva.models.kinds import SHIPPED
    from silva.models.registry import ASSETS, load_backbone

    grown = Forest.load(forest)
    client = client or next(n for n in grown.clients if len(grown.path(n).tiers) > 2)
    backbone, path = load_backbone(grown.base.id), grown.path(client)
    images = open_dataset("embedded").source.load(np.arange(32), backbone.side)
    pixels, head = backbone.pixels(images), (path.head.weight, path.head.bias)
    with torch.no_grad():
        logits = backbone.model(pixels, head, adaptation_of(path, backbone.model, merged=False))
    np.savez(folder / "ours.npz", pixels=pixels.numpy(), logits=logits.numpy())
    words = ["forest", "export", forest, "--client", client, "--transformers", "4", "--peft"]
    for more in ([folder / "whole"], [folder / "stack", "--stack"]):
        subprocess.run([*common.silva_command(), *map(str, [*words, *more])], check=True)
    where = ASSETS / grown.base.id if grown.base.id in SHIPPED else Path(grown.base.id)
    return client, where


def theirs(folder: Path, base: str) -> dict[str, Any]:
    """What peft on transformers makes of the exports; for the other interpreter."""
    import numpy as np
    import peft
    import torch
    import transformers

    held = np.load(folder / "ours.npz")
    pixels, wanted = torch.from_numpy(held["pixels"]), torch.from_numpy(held["logits"])

    def plain() -> Any:
        return transformers.ViTForImageClassification.from_pretrained(
            base, num_labels=wanted.shape[1], ignore_mismatched_sizes=True
        ).eval()

    first, *others = sorted(
        (folder / "stack").iterdir(),
        key=lambda tier: ("tier-root", "tier-cluster", "tier-leaf").index(tier.name),
    )
    stack = peft.PeftModel.from_pretrained(plain(), str(first), adapter_name=first.name)
    for tier in others:
        stack.load_adapter(str(tier), adapter_name=tier.name)
    stack.base_model.set_adapter([first.name, *(tier.name for tier in others)])
    models = {"whole": peft.PeftModel.from_pretrained(plain(), str(folder / "whole"))}
    found: dict[str, Any] = {"transformers": transformers.__version__, "peft": peft.__version__}
    found |= {"torch": torch.__version__, "largest": float(wanted.abs().max())}
    with torch.no_grad():
        for name, model in {**models, "stack": stack}.items():
            found[name] = float((model.eval()(pixels).logits - wanted).abs().max())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--forest", type=Path)
    parser.add_argument("--client", default="", help="default: the first with a whole path")
    parser.add_argument("--python", help="interpreter with transformers 4, peft and torch")
    parser.add_argument("--theirs", nargs=2, metavar=("FOLDER", "BASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.theirs:
        print(json.dumps(theirs(Path(arguments.theirs[0]), arguments.theirs[1])))
        return 0
    if not arguments.forest or not arguments.python:
        parser.error("--forest and --python are needed")
    with tempfile.TemporaryDirectory() as scratch:
        client, base = ours(arguments.forest, arguments.client, Path(scratch))
        command = [arguments.python, str(Path(__file__).resolve()), "--theirs", scratch, str(base)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(answer.splitlines()[-1])
    print(f"{client}: " + ", ".join(f"{name} {value}" for name, value in found.items()))
    if not found["transformers"].startswith("4."):
        sys.exit(f"{arguments.python} has transformers {found['transformers']}")
    return int(max(found["whole"], found["stack"]) > LARGEST_SHARE * found["largest"])


if __name__ == "__main__":
    sys.exit(main())
