"""Moved to ``dinopl.core.errors``."""

from dinopl.core.errors import MOST as MOST
from dinopl.core.errors import MOST_NAMES as MOST_NAMES
from dinopl.core.errors import MOST_PARTS as MOST_PARTS
from dinopl.core.errors import check_norm_eps as check_norm_eps
from dinopl.core.errors import check_rank as check_rank
from dinopl.core.errors import check_sizes as check_sizes
