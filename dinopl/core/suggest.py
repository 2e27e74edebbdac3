"""Moved to ``dinopl.core.errors``."""

from dinopl.core.errors import did_you_mean as did_you_mean
