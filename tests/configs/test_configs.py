"""Every shipped configuration through the real command: two steps at cut width, on noise where data are absent."""

from collections.abc import Callable
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parent.parent.parent / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "overlays")
OVERLAYS = sorted((CONFIGS / "overlays").glob("*.yaml"))

SHORT = (
    "--trainer.max_steps=2",
    "--trainer.max_epochs=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--threads=1",
    "--model.head.hidden=[8]",
    "--model.head.bottleneck_dim=4",
    "--model.head.out_dim=16",
    "--model.probe_epochs=[1]",
    "--data.batch_size=4",
)
NOISE = '{{"class_path": "NoiseImages", "init_args": {{"like": {{"class_path": "{like}"}}, "num_train": 40, {test}}}}}'


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_configuration_runs(path: Path, run_main: Callable[..., int]) -> None:
    words = list(SHORT)
    for published in ("FashionMNISTImages", "CIFAR10Images"):
        if published in path.read_text():
            words.append("--data.dataset=" + NOISE.format(like=published, test='"num_test": 20'))
            words += ["--data.train_size=null", "--data.probe_train_size=null", "--data.val_size=8"]
    assert run_main("fit", "--config", path, *words) == 0
    assert list(Path("runs").glob(f"{path.stem}/*/results.json"))


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_an_overlay_composes_with_the_main_job(path: Path, run_main: Callable[..., int]) -> None:
    assert run_main("fit", "--config", CONFIGS / "random_teacher.yaml", "--config", path, *SHORT) == 0
    assert list(Path("runs").glob("random_teacher/*/results.json"))


@pytest.mark.parametrize("path", [*FILES, *OVERLAYS], ids=name)
def test_a_configuration_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    header = "\n".join(line for line in lines if line.startswith("#"))
    if path in FILES:
        assert all(word in header for word in ("What it shows:", "Time:", "Expect:"))
    else:
        assert "Overlay" in header
