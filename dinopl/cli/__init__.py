"""The command ``dinopl``: thin shells around Lightning's CLI; nothing numerical happens here."""

from dinopl.cli.main import main

__all__ = ["main"]
