"""Sequence tasks, generated from seeds, and the data module that serves them."""

from fprnn.tasks.curriculum import AdaptiveLengths, LengthCurriculum, LinearLengths
from fprnn.tasks.data import SequenceDataModule
from fprnn.tasks.parity import Parity
from fprnn.tasks.task import LengthRange, SequenceBatch, Task
from fprnn.tasks.vocabulary import Vocabulary
from fprnn.tasks.word_problem import WordProblem, cayley_table

__all__ = [
    "AdaptiveLengths",
    "LengthCurriculum",
    "LengthRange",
    "LinearLengths",
    "Parity",
    "SequenceBatch",
    "SequenceDataModule",
    "Task",
    "Vocabulary",
    "WordProblem",
    "cayley_table",
]
