"""The style of all figures, and their captions."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH = 7.0
"""Inches across two columns of a journal."""
_CAPTION = 132
"""Number of characters in a line of a caption of that width."""

# The colours of Okabe and Ito, which colour-blind readers can distinguish.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

MARKERS = "os^vP*X"


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style of the figures, both while drawing and while saving."""
    look: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.linewidth": 0.6,
        "hatch.linewidth": 0.4,
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(look):
        yield


def write_caption(figure: Figure, caption: str) -> None:
    lines = [textwrap.fill(part, _CAPTION) for part in caption.splitlines()]
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7)
