"""Reading run folders, and the table and the figure made from them. Results are read here, never rewritten."""

from dinopl.results.figure import distillation_figure, save_figure
from dinopl.results.history import History
from dinopl.results.run import Run
from dinopl.results.table import distillation_table

__all__ = ["History", "Run", "distillation_figure", "distillation_table", "save_figure"]
