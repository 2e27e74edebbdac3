"""Reading run folders, and the tables and figures made from them. Results are read here, never rewritten."""

from dinopl.core.statistics import Summary, paired_differences, summarize
from dinopl.reports.collection import Collection, Study, Trial, collect
from dinopl.reports.comparison import Comparison, compare
from dinopl.reports.families import VIEWS, ResultView, views_of
from dinopl.reports.groups import Group, differing, group, paths_by_seed
from dinopl.reports.history import History
from dinopl.reports.report import Report, UnknownNameError
from dinopl.reports.report_figures import FORMATS, report_figure, save_report_figure
from dinopl.reports.report_tables import write_runs
from dinopl.reports.run import Run
from dinopl.reports.views.figure import distillation_figure, save_figure
from dinopl.reports.views.sequence_figures import accuracy_figure, iterations_figure, other_layers
from dinopl.reports.views.sequences import sequence_table
from dinopl.reports.views.table import distillation_table

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
