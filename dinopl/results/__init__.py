"""Reading run folders, and the tables and figures made from them. Results are read here, never rewritten."""

from dinopl.results.collection import Collection, Study, Trial, collect
from dinopl.results.comparison import Comparison, compare
from dinopl.results.figure import distillation_figure, save_figure
from dinopl.results.groups import Group, differing, group, paths_by_seed
from dinopl.results.history import History
from dinopl.results.report import Report, UnknownNameError
from dinopl.results.report_figures import FORMATS, report_figure, save_report_figure
from dinopl.results.report_tables import write_runs
from dinopl.results.run import Run
from dinopl.results.sequence_figures import accuracy_figure, iterations_figure, other_layers
from dinopl.results.sequences import sequence_table
from dinopl.results.statistics import Summary, paired_differences, summarize
from dinopl.results.table import distillation_table
from dinopl.results.views import VIEWS, ResultView, views_of

__all__ = [
    "FORMATS",
    "VIEWS",
    "Collection",
    "Comparison",
    "Group",
    "History",
    "Report",
    "ResultView",
    "Run",
    "Study",
    "Summary",
    "Trial",
    "UnknownNameError",
    "accuracy_figure",
    "collect",
    "compare",
    "differing",
    "distillation_figure",
    "distillation_table",
    "group",
    "iterations_figure",
    "other_layers",
    "paired_differences",
    "paths_by_seed",
    "report_figure",
    "save_figure",
    "save_report_figure",
    "sequence_table",
    "summarize",
    "views_of",
    "write_runs",
]
