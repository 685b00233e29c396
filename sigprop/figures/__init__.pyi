from ._goldstone_figure import goldstone_figure
from ._plots import (
    BLUE,
    VERMILLION,
    WIDTH,
    comparison_figure,
    phase_diagram_figure,
    styled,
    write_caption,
)
from ._spectrum_figure import spectrum_figure
from ._sweep_figure import caption_of, choose, series_of, sweep_figure

__all__ = [
    "BLUE",
    "VERMILLION",
    "WIDTH",
    "caption_of",
    "choose",
    "comparison_figure",
    "goldstone_figure",
    "phase_diagram_figure",
    "series_of",
    "spectrum_figure",
    "styled",
    "sweep_figure",
    "write_caption",
]
