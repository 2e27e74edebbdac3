"""Reading run folders, and the tables and figures made from them. Results are read here, never rewritten.

``runs`` has every run below a folder as a row of a pandas frame; ``Report`` puts them into groups over seeds.
"""

from dinopl.core.statistics import Summary, paired_differences, summarize
from dinopl.reports.figures import (
    FORMATS,
    framed,
    points_of,
    reference_rows,
    report_figure,
    row_of,
    save_figure,
    save_report_figure,
)
from dinopl.reports.frame import read_study, runs
from dinopl.reports.groups import Group, differing, group, paths_by_seed
from dinopl.reports.report import Report, UnknownNameError, chosen_metrics
from dinopl.reports.run import History, Run
from dinopl.reports.tables import compare, comparison_text, write_runs
from dinopl.reports.views import View, all_views, views_of
from dinopl.reports.views.self_distillation import distillation_figure, distillation_table
from dinopl.reports.views.sequence_modeling import accuracy_figure, iterations_figure, other_layers, sequence_table

__all__ = [
    "FORMATS",
    "Group",
    "History",
    "Report",
    "Run",
    "Summary",
    "UnknownNameError",
    "View",
    "accuracy_figure",
    "all_views",
    "chosen_metrics",
    "compare",
    "comparison_text",
    "differing",
    "distillation_figure",
    "distillation_table",
    "framed",
    "group",
    "iterations_figure",
    "other_layers",
    "paired_differences",
    "paths_by_seed",
    "points_of",
    "read_study",
    "reference_rows",
    "report_figure",
    "row_of",
    "runs",
    "save_figure",
    "save_report_figure",
    "sequence_table",
    "summarize",
    "views_of",
    "write_runs",
]
