#!/usr/bin/env bash
# Pictures of one's own: folders that belong to clients, a plain tree of images, and a table.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
exec 3>&1 >said.txt # what the commands print; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }

# Circles, bars and crosses. photos/<client>/<class>/, shapes/<train|test>/<class>/, shapes.npz.
python - <<'PY'
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

rng = np.random.default_rng(0)


def draw(kind: str, dark: bool) -> Image.Image:
    paper, ink = ("black", "white") if dark else ("white", "black")
    image = Image.new("RGB", (40, 40), paper)
    x, y = rng.integers(4, 14, 2).tolist()
    pen = ImageDraw.Draw(image)
    if kind == "circle":
        pen.ellipse((x, y, x + 20, y + 20), outline=ink, width=3)
    else:
        pen.line((x, y, x + 20, y + 20), fill=ink, width=3)
    if kind == "cross":
        pen.line((x, y + 20, x + 20, y), fill=ink, width=3)
    return image


def save(folder: str, kind: str, number: int, dark: bool) -> None:
    path = Path(folder, kind, f"{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(kind, dark).save(path)


kinds = ("circle", "bar", "cross")
for n, client in enumerate(("ada", "ben", "cleo", "dan", "eve")):
    for kind in kinds:
        for number in range(12):
            save(f"photos/{client}", kind, number, dark=n % 2 == 1)
for kind in kinds:
    for number in range(40):
        save("shapes/train" if number < 30 else "shapes/test", kind, number, dark=False)
table = [(kind, owner, draw(kind, False)) for owner in "abcd" for kind in kinds for _ in range(10)]
np.savez(
    "shapes.npz",
    images=np.stack([np.asarray(image) for _, _, image in table]),
    label=np.array([kind for kind, _, _ in table]),
    owner=np.array([owner for _, owner, _ in table]),
)
PY

# One folder a client: the data say who owns what.
silva tune --data photos --labels client/class --split 0.25 --partition by_folder \
    --rounds 3 --set federation.unseen_epochs=1 --out by-folder
silva forest show by-folder
expect "cleo +"
expect "3 classes"

# A tree of images that is dealt out to clients.
silva tune --data shapes --partition 'gl_dir(1.0)' --clients 5 --samples-per-client 12 \
    --rounds 3 --set federation.unseen_epochs=1 --out by-chance
expect "forest by-chance"
test -s by-chance/report/partition.json -a -s by-chance/report/histogram.png

# A table with a column that names the clients.
silva tune --data shapes.npz --split 0.25 --partition 'by_column(owner)' \
    --rounds 3 --set federation.unseen_epochs=1 --out by-column
silva predict by-column --client a photos/ada/circle/0.png
expect "%  circle"

cat said.txt >&3
