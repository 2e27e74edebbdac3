import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# What the project's own filters ignore, once more: ``pytest.warns`` repeats the warnings that it was not to catch, and
# then gives their file's whole path as the module.
REPEATED = (
    "ignore:.*does not have many workers.*:UserWarning:.*lightning.pytorch",
    "ignore:.*LeafSpec.* is deprecated:FutureWarning:.*lightning.pytorch",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for rule in REPEATED:
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
