from __future__ import annotations

from pathlib import Path

from PIL import Image

from silva.pretraining.curve import draw_curve


def test_picture(tmp_path: Path) -> None:
    curve = [
        {"epoch": n + 1, "side": 16 + 8 * (n > 2), "loss": 3 / (n + 1), "accuracy": n / 9}
        for n in range(5)
    ]
    draw_curve(curve, tmp_path / "curve.png")
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
    assert min(Image.open(tmp_path / "curve.png").size) > 300
