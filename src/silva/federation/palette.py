"""Colours and type of the plots. The colours are Okabe and Ito's, told apart by every eye."""

from __future__ import annotations

from typing import Any

from silva.federation.summary import CONTROL, leaf_epochs

TIER_COLOURS = {
    CONTROL: "#8C8C8C",
    "root": "#0072B2",
    "cluster": "#E69F00",
    "leaf": "#009E73",
}
"""One colour a tier, the same in every plot."""
SHORT_LEAF = "#4DBB9D"

CLUSTER_COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#6A51A3"),
    *("#8C8C8C", "#000000"),
)
"""Repeats beyond ten clusters; blocks are told apart by their borders and numbers as well."""

PAIR_COLOUR = "#8C6BB1"
UP_COLOUR, DOWN_COLOUR = "#4C566A", "#B4BDCD"
INK = "#262626"
NOTE: dict[str, Any] = {"fontsize": 9, "color": "#595959"}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#808080",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#E8E8E8",
    "legend.framealpha": 1.0,
    "legend.edgecolor": "none",
    "legend.fontsize": 9.0,
    "figure.dpi": 100.0,
    "savefig.dpi": 160.0,
}


def tier_colour(tier: str) -> str:
    """The colour of a tier, also of those measured on unseen clients alone."""
    if tier == "zero_leaf":
        return TIER_COLOURS["cluster"]
    epochs = leaf_epochs(tier)
    return SHORT_LEAF if epochs == 1 else TIER_COLOURS["leaf" if epochs else tier]


def plain(text: str) -> str:
    """Text from outside is no mathematics: matplotlib would parse what stands between dollars."""
    return text.replace("$", r"\$")
