"""A language model of two FP-Mamba layers learns more of a text than its letters, in a few iterations a layer."""

import math
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch import Trainer, seed_everything
from torch.optim import AdamW

from fprnn import SequenceDataModule, SequenceModeling
from fprnn.layers import FPMamba
from fprnn.solvers import PicardSolver
from fprnn.tasks import CharacterText

SENTENCES = [
    f"{who} {does} the {what}. "
    for who in ("the cat", "a dog", "my bird")
    for does in ("sees", "hears", "likes")
    for what in ("cat", "dog", "bird", "tree")
]


def entropy_of_single_characters(text: str) -> float:
    """In nats: the loss of the best model that looks at no context."""
    return -sum(count / len(text) * math.log(count / len(text)) for count in Counter(text).values())


def test_the_loss_falls_below_single_characters_and_every_layer_iterates_briefly(tmp_path: Path) -> None:
    """As in section 4.5, whose layers need fewer than 10 iterations, whatever the context."""
    text = "".join(SENTENCES) * 6
    (tmp_path / "text.txt").write_text(text)
    seed_everything(0)
    data = SequenceDataModule(
        CharacterText(str(tmp_path / "text.txt")),
        train_length=32,
        eval_lengths=[32, 128],
        batch_size=16,
        steps_per_epoch=50,
        val_size=4,
        test_size=4,
    )
    solver = PicardSolver(max_iterations=10, quantile=0.75, damping=0.99, damping_decay=0.9)
    layer = partial(FPMamba, solver=solver, d_state=8, conv_width=4, bc_norm=False, glu_in_loop=True)
    model = SequenceModeling(
        data.vocab_size, data.num_targets, layer=layer, d_model=24, n_layers=2, optimizer=partial(AdamW, lr=1e-2)
    )
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        default_root_dir=str(tmp_path),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    (scores,) = [trainer.test(model, datamodule=data, verbose=False)]
    measured = {name: value for part in scores for name, value in part.items()}
    for length in (32, 128):
        assert measured[f"test/loss/length={length}"] < 0.5 * entropy_of_single_characters(text)
        for index in (0, 1):
            assert 1 < measured[f"test/iterations/layer={index}/length={length}"] < 20
    ratio = measured["test/iterations/length=128"] / measured["test/iterations/length=32"]
    assert ratio == pytest.approx(1, abs=0.5)
