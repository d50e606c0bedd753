"""This machine's server beside the model of it: `silva profile`, then `silva validate here`.

    python benchmarks/reality.py

Takes about a quarter of an hour on two cores, alone on the machine: whatever else runs is measured
along, and differs between profile and turns. The profile and every request and token of both sides
stay in the folder of the run (`--work`). A profile of the same commit and machine is used again
unless `--again` is given, or the sources differ from the commit or belong to none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

MODEL = "smollm2"
DOES_NOT_HOLD = 1
"""Exit code of `silva validate here`."""


def called(folder: Path, *words: str, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command of silva; ends the program where it failed."""
    done = subprocess.run([*common.silva_command(), *words], cwd=folder, check=False)
    if done.returncode not in allowed:
        sys.exit(f"silva {words[0]} failed")


def published(found: dict[str, Any]) -> dict[str, Any]:
    """What the result file has of a comparison: everything but the single requests."""
    turns = [
        {
            "failed": turn["failed"],
            "requests": len(turn["simulated"]["requests"]),
            **{
                side: {name: turn[side][name] for name in ("figures", "phases_ms")}
                for side in ("measured", "simulated")
            },
        }
        for turn in found["turns"]
    ]
    return {**found, "turns": turns}


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--duration", default="90s", help="of the trace")
    parser.add_argument("--again", action="store_true", help="measure a new profile")
    arguments = parser.parse_args()
    circumstances = common.facts()
    print(common.heading(circumstances))
    folder = arguments.work.resolve() / "reality"
    folder.mkdir(parents=True, exist_ok=True)
    about = {name: circumstances[name] for name in ("commit", "machine")}
    kept = (folder / "here.toml").is_file() and common.read_json(folder / "about.json") == about
    # Of sources that are in no commit nobody knows whether they are still the same.
    named = about["commit"] != "unknown" and not about["commit"].endswith("+")
    if arguments.again or not (kept and named):
        called(folder, "profile", MODEL, "--out", "here.toml")
        common.write_json(folder / "about.json", about)
    given = ("--turns", str(arguments.turns), "--duration", arguments.duration)
    files = ("--profile", "here.toml", "--out", "here.json")
    # A crash has the same exit code as a bar that does not hold, but leaves no file.
    (folder / "here.json").unlink(missing_ok=True)
    words = ("validate", "here", "--model", MODEL, *files, *given)
    called(folder, *words, allowed=(0, DOES_NOT_HOLD))
    if not (folder / "here.json").is_file():
        sys.exit("silva validate here failed")
    found = json.loads((folder / "here.json").read_text())
    command = f"python benchmarks/reality.py {' '.join(given)}"
    result = {**circumstances, "command": command, "model": MODEL, **published(found)}
    common.write_json(arguments.results / "reality.json", result)


if __name__ == "__main__":
    main()
