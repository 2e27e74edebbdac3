"""Made-up stories, text and shards instead of those that a configuration names and that are not here."""

from pathlib import Path

import numpy as np

from fprnn.tasks import write_stories


def small_corpus(configuration: str, folder: Path) -> list[str]:
    """Options that name what is written into a folder, by the text of a configuration and of what lies over it."""
    if "TokenShards" in configuration:  # of which a ten-thousandth is to last for a window
        np.save(folder / "shard.npy", (np.arange(100_000) % 50_257).astype(np.uint16))
        return [f"--data.task.folder={folder}", "--model.n_layers=2"]
    if "CharacterText" in configuration:
        (folder / "text.txt").write_text("to be, or not to be, that is the question: " * 20)
        return [f"--data.task.path={folder / 'text.txt'}"]
    if "CatBAbI" in configuration:
        for size in ("en-valid", "en-valid-10k"):
            write_stories(folder / size, tasks=range(1, 21), count=4)
        return [f"--data.task.root={folder}"]
    return []
