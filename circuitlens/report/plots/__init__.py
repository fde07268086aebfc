"""Figures of a circuit's evidence, as plotly figures, and files of them that ask nothing of any other machine."""

from circuitlens.report.plots.effects import effect_plot as effect_plot
from circuitlens.report.plots.faithfulness import faithfulness_plot as faithfulness_plot
from circuitlens.report.plots.saving import PIXELS as PIXELS
from circuitlens.report.plots.saving import SIZE as SIZE
from circuitlens.report.plots.saving import SUFFIXES as SUFFIXES
from circuitlens.report.plots.saving import save_plot as save_plot
