"""FP-Mamba from a file of one's own, through the real command: it trains, is scored, decodes, and names mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from dinopl.reports import Run
from fprnn import SequenceModel
from fprnn.layers import FPMamba
from fprnn.mixers import HouseholderMixer
from fprnn.solvers import PicardSolver

CONFIG = """
name: own
threads: 1
model:
  class_path: SequenceModeling
  init_args:
    layer:
      class_path: FPMamba
      init_args:
        mixer: {class_path: HouseholderMixer, init_args: {rank: 2}}
        solver: {class_path: PicardSolver, init_args: {tol: 1.0e-5, quantile: 0.75}}
        d_state: 4
        conv_width: 4
        lambda_h_dep: true
    d_model: 8
    n_layers: 2
    tie_head: true
    optimizer: {class_path: AdamW, init_args: {lr: 0.01, weight_decay: 0.1}}
    random_max_iterations: {class_path: GammaIterations}
data:
  class_path: SequenceDataModule
  init_args:
    task: {class_path: WordProblem, init_args: {group: Z2}}
    train_length: 5
    eval_lengths: [4, 6]
    batch_size: 8
    eval_batch_size: 8
    val_size: 8
    test_size: 12
    steps_per_epoch: 4
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_model_summary: false
  num_sanity_val_steps: 0
  log_every_n_steps: 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(CONFIG)
    return path


def runs() -> list[Path]:
    return sorted(Path("runs").glob("own/*"))


def test_a_layer_of_a_file_trains_and_is_scored(run_main: Callable[..., int], config: Path) -> None:
    assert run_main("fit", "--config", config) == 0
    (folder,) = runs()
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    assert metrics["val/sequence_accuracy/length=6"] is not None
    assert metrics["test/iterations/layer=1/length=6"] >= 2
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    decays, stays = checkpoint["optimizer_states"][0]["param_groups"]
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.1, 0.0)
    assert run_main("test", "--ckpt_path", folder / "checkpoints" / "last.ckpt") == 0
    again = Run.load(runs()[-1]).metrics
    scores = {name: value for name, value in again.items() if "/length=" in name}
    assert scores
    assert scores == {name: metrics[name] for name in scores}
    decode(checkpoint["state_dict"])


def decode(trained: dict[str, torch.Tensor]) -> None:
    """The trained weights, one token at a time and all at once."""
    prefix = "model."
    weights = {name.removeprefix(prefix): value for name, value in trained.items() if name.startswith(prefix)}

    def layer(width: int) -> FPMamba:
        def mixer(d: int) -> HouseholderMixer:
            return HouseholderMixer(d, 2)

        return FPMamba(width, mixer, PicardSolver(1e-6, 500), d_state=4, conv_width=4, lambda_h_dep=True)

    model = SequenceModel(9, 9, layer, d_model=8, n_layers=2, tie_head=True).eval()
    model.load_state_dict(weights)
    tokens = model.generate(torch.tensor([[0, 1], [1, 1]]), 5, temperature=0)
    states, stepped = model.initial_state(2), []
    with torch.no_grad():
        for token in tokens.T:
            logits, states = model.step(token, states)
            stepped.append(logits)
        torch.testing.assert_close(torch.stack(stepped, 1), model(tokens), atol=1e-4, rtol=1e-4)


def test_a_swapped_layer_starts_from_its_own_defaults_and_trains(run_main: Callable[..., int], config: Path) -> None:
    options = ("--model.layer", "FPMamba2", "--model.layer.head_dim=4", "--model.layer.glu_in_loop=true")
    assert run_main("fit", "--config", config, *options, "--trainer.max_steps=1", "--test_after_fit=false") == 0
    (folder,) = runs()
    arguments = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["layer"]["init_args"]
    assert (arguments["d_state"], arguments["conv_width"], arguments["lambda_h_dep"]) == (128, None, False)
    assert (arguments["head_dim"], arguments["glu_in_loop"]) == (4, True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.layer.kept_iterations=-1"], "--model.layer.kept_iterations -1: must be at least 0"),
        (
            ["--model.layer", "FPMamba2", "--model.layer.head_dim=64"],
            "--model.layer.head_dim 64: times groups=1 must divide the inner",
        ),
        (["--model.layer", "DiagonalMamba"], "--model.random_max_iterations GammaIterations: no layer is solved"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run_main: Callable[..., int], config: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert run_main("fit", "--config", config, *options) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    assert expected in said
    assert not runs()
