"""The command ``dinopl``: thin shells around Lightning's CLI; nothing numerical happens here."""

from dinopl.app.entry import main

__all__ = ["main"]
