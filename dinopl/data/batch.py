"""Moved to ``dinopl.core.types``."""

from dinopl.core.types import as_batch as as_batch
