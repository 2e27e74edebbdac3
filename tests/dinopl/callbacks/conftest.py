import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

LIGHTNING = (
    "ignore:.*does not have many workers.*:UserWarning",
    "ignore:.*isinstance\\(treespec, LeafSpec\\).*:FutureWarning",  # torch's complaint about Lightning's own loops
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for rule in LIGHTNING:
                item.add_marker(pytest.mark.filterwarnings(rule))


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """After a KeyboardInterrupt Lightning leaves SIGINT ignored; ``seed_everything`` leaves a variable behind."""
    handler, seed = signal.getsignal(signal.SIGINT), os.environ.pop("PL_GLOBAL_SEED", None)
    yield
    signal.signal(signal.SIGINT, handler)
    os.environ.pop("PL_GLOBAL_SEED", None)
    if seed is not None:
        os.environ["PL_GLOBAL_SEED"] = seed
