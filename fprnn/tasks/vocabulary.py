"""What a task's token numbers stand for."""

import hashlib
import json
from collections.abc import Iterable, Sequence


class Vocabulary:
    """The tokens of a task, numbered from 0.

    Args:
        tokens: one name a token, all different.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._index = {token: index for index, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({list(self.tokens)})"

    @property
    def fingerprint(self) -> str:
        """16 digits of a hash of the tokens' names and their order."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()[:16]

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of tokens.

        Raises:
            ValueError: if a token is not in the vocabulary.
        """
        tokens = list(tokens)
        if unknown := [token for token in tokens if token not in self._index]:
            raise ValueError(f'token "{unknown[0]}" is not among the {len(self)} of the vocabulary; see its `tokens`.')
        return [self._index[token] for token in tokens]

    def decode(self, numbers: Sequence[int]) -> list[str]:
        """Names of token numbers."""
        return [self.tokens[number] for number in numbers]
