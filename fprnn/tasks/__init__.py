"""Sequence tasks, generated from seeds or read from a corpus, and the data module that serves them."""

from fprnn.tasks.arithmetic import BracketedArithmetic, ModularArithmetic
from fprnn.tasks.catbabi import CatBAbI
from fprnn.tasks.copying import Copying, DuplicateNGram, PrefixNGram, SuffixNGram
from fprnn.tasks.curriculum import AdaptiveLengths, LengthCurriculum, LinearLengths
from fprnn.tasks.data import SequenceDataModule
from fprnn.tasks.formal import CycleNavigation, EvenPairs, FormalLanguage, Parity
from fprnn.tasks.stories import write_stories
from fprnn.tasks.task import (
    GeneratedTask,
    LengthRange,
    SequenceBatch,
    Task,
    Vocabulary,
    bits_per_character,
    constant_answer_accuracy,
    scaled_accuracy,
)
from fprnn.tasks.text import ByteText, CharacterText, PythonDocsText, TextFile, TextSource, TextTask, TokenShards
from fprnn.tasks.word_problem import WordProblem, cayley_table

__all__ = [
    "AdaptiveLengths",
    "BracketedArithmetic",
    "ByteText",
    "CatBAbI",
    "CharacterText",
    "Copying",
    "CycleNavigation",
    "DuplicateNGram",
    "EvenPairs",
    "FormalLanguage",
    "GeneratedTask",
    "LengthCurriculum",
    "LengthRange",
    "LinearLengths",
    "ModularArithmetic",
    "Parity",
    "PrefixNGram",
    "PythonDocsText",
    "SequenceBatch",
    "SequenceDataModule",
    "SuffixNGram",
    "Task",
    "TextFile",
    "TextSource",
    "TextTask",
    "TokenShards",
    "Vocabulary",
    "WordProblem",
    "bits_per_character",
    "cayley_table",
    "constant_answer_accuracy",
    "scaled_accuracy",
    "write_stories",
]
