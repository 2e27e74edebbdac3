"""Every shipped configuration through the real command: two steps at cut width, on noise where data are absent."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.configs.conftest import replaced
from tests.configs.small_corpora import small_corpus

CONFIGS = Path(__file__).parent.parent.parent / "configs"
FILES = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name != "overlays" and not path.name.endswith(".sweep.yaml")  # laid over others; test_sweeps.py
)
OVERLAYS = sorted((CONFIGS / "overlays").glob("*.yaml"))

COMMON = (
    "--trainer.max_steps=2",
    "--trainer.max_epochs=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--threads=1",
    "--data.batch_size=4",
)
SHORT = (
    *COMMON,
    "--model.head.hidden=[8]",
    "--model.head.bottleneck_dim=4",
    "--model.head.out_dim=16",
    "--model.probe_epochs=[1]",
)
SHORT_SEQUENCES = (
    *COMMON,
    "--model.d_model=8",
    "--data.train_length=4",
    "--data.eval_lengths=[4,6]",
    "--data.val_lengths=[4]",
    "--data.val_size=8",
    "--data.test_size=8",
)
SHORT_CLASSIFIERS = (
    *(word for word in COMMON if not word.startswith("--data.")),
    "--trainer.precision=32-true",
    "--trainer.enable_checkpointing=false",  # of networks of ten million parameters
    "--data.data.batch_size=4",
    "--data.data.eval_batch_size=8",
)

OVER = {  # what an overlay is laid over
    "long": ["fprnn/a5", "fprnn/s5"],
    "cpu": ["random_teacher", "fprnn/parity"],
    "ddp": ["random_teacher", "fprnn/parity"],
    "copying_paper": ["fprnn/copying"],
    "arithmetic_paper": ["fprnn/arithmetic_brackets"],
    "catbabi_paper": ["fprnn/catbabi"],
    "text_paper": ["fprnn/text"],
}


def short(words: str) -> tuple[str, ...]:
    """What cuts a run short, by the path or the text of a configuration or of a command with one."""
    if "KnowledgeDistillation" in words:
        return SHORT_CLASSIFIERS
    return SHORT_SEQUENCES if "fprnn" in words or "SequenceModeling" in words else SHORT


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.mark.filterwarnings("ignore:The training ends after 2 steps")  # before a warm-up of DINO does
@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_configuration_runs(path: Path, run_main: Callable[..., int], tmp_path: Path) -> None:
    text = path.read_text()
    words = [*short(text), *replaced(text), *small_corpus(text, tmp_path)]
    if "TorchvisionClassifier" in text:
        words.append("--model.student.name=squeezenet1_1")  # networks of this size are made in test_kd_teacher.py
    assert run_main("fit", "--config", path, *words) == 0
    assert list(Path("runs").glob(f"{path.stem}/*/results.json"))


@pytest.mark.parametrize(
    ("base", "overlay"), [(base, path) for path in OVERLAYS for base in OVER.get(path.stem, ["random_teacher"])]
)
def test_an_overlay_composes(base: str, overlay: Path, run_main: Callable[..., int], tmp_path: Path) -> None:
    file = CONFIGS / f"{base}.yaml"
    corpus = small_corpus(file.read_text() + overlay.read_text(), tmp_path)
    assert run_main("fit", "--config", file, "--config", overlay, *short(base), *corpus) == 0
    assert list(Path("runs").glob(f"{Path(base).name}/*/results.json"))


@pytest.mark.parametrize("path", [*FILES, *OVERLAYS], ids=name)
def test_a_configuration_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    header = "\n".join(line for line in lines if line.startswith("#"))
    if path in FILES:
        assert all(word in header for word in ("What it shows:", "Time:", "Expect:"))
    else:
        assert "Overlay" in header
