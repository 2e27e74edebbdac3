"""Commands beside training: thin shells over the library."""

import argparse
from typing import Any, NoReturn

from dinopl.core.errors import UserMistake


class ToolParser(argparse.ArgumentParser):
    """The parser of a tool's options, with errors of one line.

    Args:
        tool: the word after ``dinopl``.
        remedy: what to do about a wrong option, as the end of a sentence.
        kwargs: of ``ArgumentParser``.
    """

    def __init__(self, tool: str, remedy: str, **kwargs: Any) -> None:
        super().__init__(f"dinopl {tool}", allow_abbrev=False, **kwargs)
        self.tool, self.remedy = tool, remedy

    def error(self, message: str) -> NoReturn:
        """Raises a ``UserMistake``."""
        raise UserMistake(f"{self.tool}: {message}; {self.remedy}.")
