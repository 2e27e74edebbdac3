"""The library does not know the command: it names arguments, and the command puts the option's path before them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OPTION = re.compile(r"--(model|data|trainer|ckpt_path)\b")
KNOW_THE_COMMAND = ("dinopl/cli/", "dinopl/sweep/")  # a study's file names options


def test_no_option_of_the_command_is_named_in_the_library() -> None:
    sources = {
        str(path.relative_to(ROOT)): path.read_text()
        for package in ("dinopl", "fprnn", "kd")
        for path in (ROOT / package).rglob("*.py")
    }
    assert len(sources) > 100
    library = {name: text for name, text in sources.items() if not name.startswith(KNOW_THE_COMMAND)}
    assert {name for name, text in library.items() if OPTION.search(text)} == set()
