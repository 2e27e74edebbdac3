"""The real parser, without what comes after it: options in, the complete configuration out, nothing built."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from dinopl.cli.config import Arguments, Config
from dinopl.cli.runs import DinoplCLI, importable_from_here
from dinopl.cli.terminal import quiet


class _ParserIsMadeError(Exception):
    """Stops the command once its parser is made."""


class Resolver(DinoplCLI):
    """Gives the complete configurations of many runs of one kind; the parser is made once.

    Args:
        command: "fit" or another run.
    """

    def __init__(self, command: str = "fit") -> None:
        self._made = False
        with quiet(), contextlib.suppress(_ParserIsMadeError):
            super().__init__(Arguments(command))

    def __call__(self, arguments: Arguments) -> Config:
        """The complete configuration, in plain values.

        Raises:
            UserMistake: what the parser refuses.
        """
        self.arguments = arguments
        importable_from_here()
        with quiet():
            self.parse_arguments(self.parser, None)
        return self.plain_config()

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, but for the first time, when there is nothing to parse yet."""
        if not self._made:
            self._made = True
            raise _ParserIsMadeError
        super().parse_arguments(parser, args)


_resolver = functools.cache(Resolver)


def compose(words: Sequence[str]) -> Config:
    """The complete configuration of ``dinopl fit`` with these words; likewise."""
    return _resolver()(Arguments.parse("fit", words))
