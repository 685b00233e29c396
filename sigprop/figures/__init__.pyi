from ._comparison_figure import comparison_figure
from ._goldstone_figure import goldstone_figure
from ._phase_diagram_figure import phase_diagram_figure
from ._spectrum_figure import spectrum_figure
from ._style import BLUE, VERMILLION, WIDTH, styled, write_caption
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
