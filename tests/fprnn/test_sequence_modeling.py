"""The LightningModule in a Trainer: what it learns, logs, counts, resumes and refuses."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dinopl.core.schedules import WarmupCosine, warmup_cosine
from dinopl.training import ExactResume, PredictionWriter
from fprnn import SequenceDataModule, SequenceModeling
from fprnn.baselines import LSTMLayer
from fprnn.counting import iteration_tallies
from fprnn.iteration_caps import GammaIterations
from fprnn.layers import FPRNN, DiagonalRNN, FPMamba
from fprnn.layers.equation import FPRNNEquation
from fprnn.mixers import HouseholderMixer
from fprnn.solvers import AutomaticSolver, FixedCountSolver, PicardSolver, SequentialSolver, SolveStatistics
from fprnn.tasks import AdaptiveLengths, LengthCurriculum, WordProblem

Adam = partial(torch.optim.AdamW, lr=1e-2)
Exact = partial(FPRNN, solver=SequentialSolver())


def data(**options: Any) -> SequenceDataModule:
    given = {"train_length": 6, "batch_size": 8, "steps_per_epoch": 4, "val_size": 7, "test_size": 7, "seed": 0}
    return SequenceDataModule(WordProblem("Z2"), **(given | options))


def module(layer: Callable[[int], nn.Module] = Exact, **options: Any) -> SequenceModeling:
    return SequenceModeling(9, 2, layer=layer, **({"d_model": 8, "optimizer": Adam} | options))


def trainer(root: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    fixed = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1, "enable_checkpointing": False}
    return Trainer(default_root_dir=str(root), callbacks=list(callbacks), **(quiet | fixed | options))


def metrics(fit: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in fit.callback_metrics.items()}


class Log(Callback):
    """Keeps a few things of every training batch."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.lengths: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.metrics.append({name: value for name, value in metrics(trainer).items() if name.startswith("train/")})
        self.lengths.append(args[2]["tokens"].shape[1])


def test_parity_is_learnt_in_seconds_and_goes_on_beyond_the_trained_length(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    schedule = partial(WarmupCosine, warmup_steps=20)
    model = module(d_model=16, lr_scheduler=schedule, optimizer=partial(Adam, weight_decay=0.01))
    source = data(train_length=8, eval_lengths=[8, 16], batch_size=64, steps_per_epoch=150, test_size=300)
    fit = trainer(tmp_path, gradient_clip_val=1.0)
    fit.fit(model, source)
    assert metrics(fit)["train/sequence_accuracy"] == 1.0
    fit.test(model, source, verbose=False)
    assert metrics(fit)["test/sequence_accuracy/length=8"] > 0.99
    assert metrics(fit)["test/sequence_accuracy/length=16"] > 0.5  # 0.7 to 1 over six seeds, 0 by chance
    assert metrics(fit)["test/iterations/length=16"] > metrics(fit)["test/iterations/length=8"] > 2


# --- what is logged


def by_hand(model: SequenceModeling, batch: dict[str, Tensor]) -> dict[str, float]:
    """Loss and accuracies of a whole set, row by row."""
    with torch.no_grad():
        logits = model.eval()(batch["tokens"]).double().log_softmax(-1).numpy()
    losses, hits, rows = [], [], []
    for row, mask in enumerate(batch["mask"].numpy()):
        scored = np.flatnonzero(mask)
        targets = batch["targets"][row].numpy()[scored]
        losses += [-logits[row, t, y] for t, y in zip(scored, targets, strict=True)]
        right = list(logits[row, scored].argmax(-1) == targets)
        hits, rows = hits + right, [*rows, all(right)]
    return {
        "loss": float(np.mean(losses)),
        "token_accuracy": float(np.mean(hits)),
        "sequence_accuracy": float(np.mean(rows)),
    }


def test_every_length_has_its_own_scores_over_all_of_its_batches(tmp_path: Path) -> None:
    """Batches of 3 out of 7; with BOS, some positions are not scored."""
    source = SequenceDataModule(
        WordProblem("Z2", bos=True), eval_lengths=[2, 5], val_lengths=[3], eval_batch_size=3, val_size=7, test_size=7
    )
    model, fit = module(), trainer(tmp_path)
    fit.validate(model, source, verbose=False)
    assert metrics(fit) == pytest.approx(
        {f"val/{name}/length=3": v for name, v in by_hand(model, source.evaluation_set("val", 3)).items()}  # type: ignore[arg-type]
    )
    fit.test(model, source, verbose=False)
    scores = {name: v for name, v in metrics(fit).items() if "iterat" not in name}
    assert scores == pytest.approx(
        {
            f"test/{name}/length={length}": value
            for length in (2, 5)
            for name, value in by_hand(model, source.evaluation_set("test", length)).items()  # type: ignore[arg-type]
        }
    )


class FirstAnswers(WordProblem):
    """Reports the share of first answers that are right, of the rows with an even number."""

    def measures(self, predictions: Tensor, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        even = batch["mask"][:, 0] & (batch["index"] % 2 == 0)
        right = predictions[:, 0] == batch["targets"][:, 0]
        return {"first": ((right & even).sum(), even.sum())}


def test_a_task_may_measure_more(tmp_path: Path) -> None:
    source = SequenceDataModule(FirstAnswers("Z2"), eval_lengths=[4], eval_batch_size=3, test_size=8)
    model, fit = module(), trainer(tmp_path)
    fit.test(model, source, verbose=False)
    whole = source.evaluation_set("test", 4)
    right = (model(whole["tokens"]).argmax(-1) == whole["targets"])[::2, 0]
    assert metrics(fit)["test/first/length=4"] == pytest.approx(float(right.float().mean()))


def test_a_second_evaluation_starts_anew(tmp_path: Path) -> None:
    model, fit = module(), trainer(tmp_path)
    fit.test(model, data(), verbose=False)
    first = metrics(fit)
    fit.test(model, data(), verbose=False)
    assert metrics(fit) == first


def test_iterations_are_counted_by_the_rule_whatever_solver_answers(tmp_path: Path) -> None:
    """Against a solver of the layer's own; of the first 5 sequences only; in two layers, one of which has none."""
    rule = PicardSolver(tol=0.01, eval_max_iterations=4)
    model = module(n_layers=2, iterations=rule, iteration_sequences=5)
    solvers = [layer.solver for layer in model.model.layers]
    source = data(eval_lengths=[6], eval_batch_size=3)
    fit = trainer(tmp_path)
    fit.test(model, source, verbose=False)
    assert [layer.solver for layer in model.model.layers] == solvers
    found = metrics(fit)
    batch = {name: column[:5] for name, column in source.evaluation_set("test", 6).items()}  # type: ignore[attr-defined]
    for layer in model.model.layers:
        layer.solver = PicardSolver(tol=0.01, max_iterations=4, eval_max_iterations=None)
    assert found["test/iterated_sequence_accuracy/length=6"] == by_hand(model, batch)["sequence_accuracy"]
    each = [layer.statistics for layer in model.model.layers]
    means = [float(statistics.iterations.float().mean()) for statistics in each]
    assert [found[f"test/iterations/layer={i}/length=6"] for i in range(2)] == pytest.approx(means)
    assert found["test/iterations/length=6"] == pytest.approx(np.mean(means))
    capped = np.mean([1 - float(statistics.converged.float().mean()) for statistics in each])
    assert found["test/iterations_capped/length=6"] == pytest.approx(capped)
    assert capped > 0


def test_rows_without_an_answer_are_not_counted() -> None:
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    statistics = SolveStatistics(torch.tensor([3, 100, 6]), torch.zeros(3), torch.tensor([True, False, False]))
    logits = torch.eye(2).expand(3, 2, 2)
    tallies = iteration_tallies(logits, {0: statistics}, torch.tensor([[0, 1], [0, 1], [1, 1]]), mask, layers=1)
    assert {name: (int(tally.total), int(tally.number)) for name, tally in tallies.items()} == {
        "iterations": (9, 2),
        "iterations_capped": (1, 2),
        "iterated_sequence_accuracy": (1, 2),
    }


@pytest.mark.parametrize(
    ("layer", "counts", "counted"), [(LSTMLayer, True, False), (DiagonalRNN, True, False), (Exact, False, False)]
)
def test_what_does_not_iterate_has_no_iterations(layer: Any, counts: bool, counted: bool, tmp_path: Path) -> None:
    fit = trainer(tmp_path)
    fit.test(module(layer, iterations=counts), data(), verbose=False)
    assert any("iterat" in name for name in metrics(fit)) == counted
    assert "test/sequence_accuracy/length=6" in metrics(fit)


def test_training_logs_how_it_goes(tmp_path: Path) -> None:
    log = Log()
    source = data(train_length=9, curriculum=AdaptiveLengths(smoothing=0.0, threshold=0.01), batch_size=64)
    layer = partial(FPRNN, solver=PicardSolver(max_iterations=2))
    fit = trainer(tmp_path, log)
    fit.fit(module(layer, n_layers=2), source)
    assert {"train/loss", "train/sequence_accuracy", "train/capped"} == fit.progress_bar_metrics.keys()
    last = log.metrics[-1]
    assert [entry["train/length"] for entry in log.metrics] == log.lengths
    assert log.lengths[0] == 2
    assert last["train/iterations/layer=0"] == last["train/iterations/layer=1"] == last["train/iterations"] == 2.0
    assert 0 < last["train/capped"] <= 1
    quiet = Log()
    fit = trainer(tmp_path, quiet, log_every_n_steps=3)
    fit.fit(module(), data())
    assert "train/capped" not in fit.progress_bar_metrics  # the exact solver has no cap
    assert [("train/iterations" in entry) for entry in quiet.metrics] == [False, False, True, True]


class Hears(LengthCurriculum):
    """Keeps what it is told."""

    needs_accuracy = True

    def __init__(self) -> None:
        self.heard: list[float] = []

    def longest(self, step: int, goal: int) -> int:
        return goal

    def observe(self, accuracy: float, goal: int) -> None:
        self.heard.append(accuracy)


def test_a_curriculum_hears_of_every_batch_before_the_next_is_made(tmp_path: Path) -> None:
    log, curriculum = Log(), Hears()
    trainer(tmp_path, log, accumulate_grad_batches=2).fit(module(), data(curriculum=curriculum, train_length=2))
    assert curriculum.heard == [entry["train/sequence_accuracy"] for entry in log.metrics]
    assert len(set(curriculum.heard)) > 1


# --- the gradient


def trained(root: Path, source: SequenceDataModule, layer: Any = Exact, **options: Any) -> Tensor:
    seed_everything(1, verbose=False)
    model = module(layer, optimizer=partial(torch.optim.SGD, lr=0.5))
    trainer(root, **options).fit(model, source)
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_one_step_is_that_of_the_mean_over_scored_positions(tmp_path: Path) -> None:
    source = data(train_length=(2, 6), steps_per_epoch=1)
    seed_everything(1, verbose=False)
    model = module(optimizer=partial(torch.optim.SGD, lr=0.5)).model
    batch = source.training_batch(0)
    F.cross_entropy(model(batch["tokens"])[batch["mask"]], batch["targets"][batch["mask"]]).backward()
    expected = [p.detach() - 0.5 * p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(trained(tmp_path, source), nn.utils.parameters_to_vector(expected))


def test_two_accumulated_batches_are_one_of_twice_the_size(tmp_path: Path) -> None:
    accumulated = trained(tmp_path, data(), accumulate_grad_batches=2)
    torch.testing.assert_close(accumulated, trained(tmp_path, data(batch_size=16, steps_per_epoch=2)))


class Padded(SequenceDataModule):
    """Adds rows that hold no answer."""

    def training_batch(self, *args: Any) -> Any:
        batch: Any = super().training_batch(*args)
        extra = {name: torch.cat([column, column[:3]]) for name, column in batch.items()}
        extra["mask"][-3:] = False
        return extra


def test_rows_without_an_answer_count_nowhere(tmp_path: Path) -> None:
    options: Any = {"train_length": 6, "batch_size": 8, "steps_per_epoch": 4, "val_size": 3, "seed": 0}
    layer = partial(FPRNN, solver=PicardSolver())
    kinds = (Padded, SequenceDataModule)
    ours, theirs = (trained(tmp_path, kind(WordProblem("Z2"), **options), layer) for kind in kinds)
    torch.testing.assert_close(ours, theirs)


def test_a_batch_without_an_answer_moves_nothing(tmp_path: Path) -> None:
    empty: Any = data()
    batch = {**data().training_batch(0), "mask": torch.zeros(8, 6, dtype=torch.bool)}
    empty.training_batch = lambda *args: batch
    torch.testing.assert_close(trained(tmp_path, empty), trained(tmp_path, data(), max_epochs=0))


# --- optimiser, schedule, precision


def test_biases_and_norms_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    model = module(optimizer=partial(torch.optim.AdamW, weight_decay=0.3))
    model.model.embedding.weight.requires_grad_(False)
    optimizer: Any = model.configure_optimizers()
    names = {id(p): name for name, p in model.model.named_parameters()}
    decays, stays = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert {"head.weight", "layers.0.mixer.projection.magnitude.0"} <= set(decays)
    assert set(stays) == {name for name in names.values() if "norm" in name or "bias" in name}
    assert "embedding.weight" not in decays + stays
    assert len(decays) + len(stays) + 1 == len(names)


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, {"weight": 0.3, "bias": 0.0, "rates": 0.0}),
        ({"bias_weight_decay": None}, {"weight": 0.3, "bias": 0.3, "rates": 0.0}),  # as for the paper's arithmetic
        ({"bias_weight_decay": None, "exempt_weight_decay": None}, {"weight": 0.3, "bias": 0.3, "rates": 0.3}),
        ({"bias_weight_decay": 0.1, "exempt_weight_decay": 0.2}, {"weight": 0.3, "bias": 0.1, "rates": 0.2}),
    ],
)
def test_each_kind_of_parameter_decays_as_asked(options: dict[str, Any], groups: dict[str, float]) -> None:
    model = module(FPMamba, optimizer=partial(torch.optim.AdamW, weight_decay=0.3), **options)
    optimizer: Any = model.configure_optimizers()
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    assert len(optimizer.param_groups) == len(set(groups.values()))
    for name, parameter in model.model.named_parameters():
        kind = (
            "rates" if name.endswith(("A_log", "D_skip")) else "bias" if "bias" in name or "norm" in name else "weight"
        )
        assert decays.pop(id(parameter)) == groups[kind], name
    assert not decays


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.seen += [group["lr"] for group in optimizer.param_groups[:1]]


@pytest.mark.parametrize("total", [None, 20])
def test_the_schedule_moves_with_the_optimiser_and_ends_with_the_training(tmp_path: Path, total: int | None) -> None:
    rates = Rates()
    model = module(lr_scheduler=partial(WarmupCosine, warmup_steps=2, total_steps=total, floor=0.1))
    trainer(tmp_path, rates, max_epochs=3, accumulate_grad_batches=2).fit(model, data())
    assert rates.seen == pytest.approx([1e-2 * warmup_cosine(step, 2, total or 6, 0.1) for step in range(6)])


def test_a_training_without_end_needs_a_number(tmp_path: Path) -> None:
    model = module(lr_scheduler=WarmupCosine)
    with pytest.raises(ValueError, match="total_steps=None: the whole training, which has no end; give a number"):
        trainer(tmp_path, max_epochs=-1, max_time="00:00:01:00").fit(model, data())


def test_bf16_mixed_trains_with_a_loss_in_float32(tmp_path: Path) -> None:
    class Losses(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            assert loss.dtype == torch.float32

    log = Log()
    layer = partial(FPRNN, solver=AutomaticSolver())
    trainer(tmp_path, Losses(), log, precision="bf16-mixed", max_epochs=5).fit(module(layer), data(train_length=2))
    losses = [entry["train/loss"] for entry in log.metrics]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


# --- iteration caps


class Spy(PicardSolver):
    """Notes the cap of every solve."""

    caps: list[tuple[bool, int]]

    def forward(self, equation: Any) -> Any:
        self.caps = [*getattr(self, "caps", []), (self.training, self.cap)]
        return super().forward(equation)


def caps(model: SequenceModeling, training: bool) -> list[int]:
    return [cap for mode, cap in model.model.layers[0].solver.caps if mode == training]  # type: ignore[union-attr]


def test_training_draws_its_cap_each_step_and_evaluation_keeps_the_option(tmp_path: Path) -> None:
    draws = GammaIterations(seed=3)
    layer = partial(FPRNN, solver=Spy(max_iterations=50, eval_max_iterations=None))
    model = module(layer, random_max_iterations=draws)
    trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2).fit(model, data())
    assert caps(model, True) == [draws.cap(step // 2, 6) for step in range(8)]
    assert set(caps(model, False)) == {50}
    capped = module(layer, eval_max_iterations=7)
    trainer(tmp_path).fit(capped, data())
    assert (set(caps(capped, True)), set(caps(capped, False))) == ({50}, {7})


# --- resuming


def growing() -> SequenceDataModule:
    return data(train_length=16, seed=None, val_size=3, curriculum=AdaptiveLengths(smoothing=0.5, threshold=0.1))


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning")
@pytest.mark.parametrize("where", ["epoch end", "mid-epoch"])
def test_a_resumed_training_ends_bit_for_bit_where_the_whole_one_does(tmp_path: Path, where: str) -> None:
    """With a curriculum, random caps and a schedule; under another seed."""

    def fit(seed: int, epochs: int, *callbacks: Callback, source: Path | None = None) -> tuple[Any, Any, Any]:
        seed_everything(seed, verbose=False)
        model = module(
            partial(FPRNN, solver=PicardSolver()),
            random_max_iterations=GammaIterations(),
            lr_scheduler=partial(WarmupCosine, warmup_steps=3, total_steps=20),
            n_layers=2,
        )
        log, words = Log(), growing()
        run = trainer(tmp_path, ExactResume(), log, *callbacks, max_epochs=epochs, enable_checkpointing=bool(callbacks))
        run.fit(model, words, ckpt_path=source, weights_only=True if source else None)
        return log, nn.utils.parameters_to_vector(model.parameters()).detach(), words.state_dict()

    epochs, done = (2, 8) if where == "epoch end" else (1, 3)  # at the third step the length grows
    every: Any = {"every_n_epochs": 2} if where == "epoch end" else {"every_n_train_steps": done}
    first, _, _ = fit(1, epochs, ModelCheckpoint(tmp_path, "last", enable_version_counter=False, **every))
    whole, weights, state = fit(1, 4)
    rest, resumed_weights, resumed_state = fit(2, 4, source=tmp_path / "last.ckpt")
    assert first.lengths == whole.lengths[: 4 * epochs]
    assert rest.lengths == whole.lengths[done:]
    assert rest.metrics == whole.metrics[done:]
    assert torch.equal(resumed_weights, weights)
    assert resumed_state == state
    assert whole.lengths[-1] > whole.lengths[done] > 2


# --- checkpoints of others


def saved(root: Path, model: SequenceModeling, source: SequenceDataModule | None = None) -> Path:
    run = trainer(root)
    run.fit(model, source or data())
    run.save_checkpoint(root / "saved.ckpt")
    return root / "saved.ckpt"


def test_the_checkpoint_is_plain_and_tells_its_family(tmp_path: Path) -> None:
    checkpoint = torch.load(saved(tmp_path, module()), weights_only=True)
    own = {key: value for key, value in checkpoint["dinopl"].items() if key != "optimizer"}  # for a resume
    assert own == {"family": "SequenceModeling", "vocab_size": 9, "num_targets": 2}


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        ("Z3", {}, "vocab_size=10: the checkpoint was trained with 9; give data of the task"),
        ("Z2", {"d_model": 6}, r"ckpt_path: model.embedding.weight is \(9, 8\) in the checkpoint and \(9, 6\) here"),
        ("Z2", {"pad_vocab_to": 8}, r"ckpt_path: model.embedding.weight is \(9, 8\) .* set layer"),
    ],
)
def test_a_model_that_does_not_match_is_refused_in_one_line(
    group: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, module())
    source = SequenceDataModule(WordProblem(group), eval_lengths=[4])
    other = SequenceModeling(source.vocab_size, source.num_targets, layer=Exact, **({"d_model": 8} | options))
    with pytest.raises(ValueError, match=message) as raised:
        trainer(tmp_path).test(other, source, ckpt_path=path, weights_only=True)
    assert "\n" not in str(raised.value)


def test_another_familys_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="ckpt_path: a checkpoint of KnowledgeDistillation"):
        module().on_load_checkpoint({"dinopl": {"family": "KnowledgeDistillation"}, "state_dict": {}})


@pytest.mark.parametrize(("trained_by", "tested_by"), [("automatic", "picard"), ("picard", "automatic")])
def test_weights_may_be_tested_by_another_solver(trained_by: str, tested_by: str, tmp_path: Path) -> None:
    """The automatic solver's state dict holds what it has found; the others' do not."""
    solvers = {"automatic": AutomaticSolver(PicardSolver(tol=1e-5)), "picard": PicardSolver(tol=1e-5)}
    first, second = (module(partial(FPRNN, solver=solvers[name])) for name in (trained_by, tested_by))
    path = saved(tmp_path, first)
    trainer(tmp_path).test(second, data(), ckpt_path=path, weights_only=True, verbose=False)
    ids = torch.randint(0, 2, (4, 6))
    with torch.no_grad():
        torch.testing.assert_close(first.eval()(ids), second.eval()(ids), atol=1e-4, rtol=1e-4)


# --- without our command and our data


def test_it_trains_in_a_plain_lightning_project(tmp_path: Path) -> None:
    """Batches of tokens and targets without a mask; loaders without names; two of one width."""
    ids = torch.randint(0, 3, (40, 5))
    loader = DataLoader(TensorDataset(ids, ids.cumsum(1) % 3), batch_size=16)
    short = DataLoader(TensorDataset(ids[:, :2], ids[:, :2]), batch_size=16)
    model = SequenceModeling(3, 3, layer=LSTMLayer, d_model=8, optimizer=Adam)
    fit = trainer(tmp_path, max_epochs=2)
    fit.fit(model, loader, [loader, short])
    assert {name for name in metrics(fit) if name.startswith("val/loss")} == {"val/loss/length=5", "val/loss/length=2"}
    fit.test(model, [loader, loader], verbose=False)
    first, second = (metrics(fit)[f"test/loss/length={name}"] for name in ("5", "5/loader=1"))
    assert first == pytest.approx(second)
    expected = F.cross_entropy(model(ids).flatten(0, 1), (ids.cumsum(1) % 3).flatten()).item()
    assert first == pytest.approx(expected)
    with pytest.raises(TypeError, match="a batch must hold tokens, targets and perhaps a mask; got Tensor"):
        trainer(tmp_path).test(model, DataLoader(ids), verbose=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 3, "vocab_size=3: too small for data with token 3; use 4, or correct the data"),
        (0, -1, "vocab_size=3: the data have token -1; number from 0"),
        (1, 7, "num_targets=3: too small for data with target 7; use 8, or correct the data"),
        (1, -100, "num_targets=3: the data have target -100; number from 0 and mask what is not to be scored"),
    ],
)
def test_own_data_beyond_the_model_are_refused(tmp_path: Path, column: int, value: int, message: str) -> None:
    """Wherever they stand, and also where the padded vocabulary has a row for them; but not where nothing is scored."""
    columns = [torch.zeros(8, 4, dtype=torch.long), torch.zeros(8, 4, dtype=torch.long), torch.ones(8, 4).bool()]
    columns[column][6, 2] = value
    model = SequenceModeling(3, 3, layer=LSTMLayer, d_model=8, optimizer=Adam, pad_vocab_to=16)
    loader = DataLoader(TensorDataset(*columns), batch_size=4)
    for run in (trainer(tmp_path).fit, trainer(tmp_path).validate, trainer(tmp_path).test):
        with pytest.raises(ValueError, match=message) as raised:
            run(model, *([loader, loader] if run.__name__ == "fit" else [loader]))
        assert "\n" not in str(raised.value)
    if column == 1:
        columns[2][6, 2] = False
        trainer(tmp_path).validate(model, loader, verbose=False)


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices:UserWarning")  # the rows carry theirs
def test_predictions_are_written_by_length(tmp_path: Path) -> None:
    source, writer = data(eval_lengths=[6, 3], eval_batch_size=3), PredictionWriter(folder=str(tmp_path))
    model = module()
    trainer(tmp_path, writer).predict(model, source, return_predictions=False)
    for path, length in zip(writer.paths, (6, 3), strict=True):
        written, whole = np.load(path), source.evaluation_set("test", length)
        assert written["index"].tolist() == list(range(7))
        assert np.array_equal(written["tokens"], whole["tokens"])
        assert np.array_equal(written["target"], whole["targets"])
        with torch.no_grad():
            assert np.array_equal(written["prediction"], model(whole["tokens"]).argmax(-1))


# --- two processes


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices:UserWarning")  # the rows carry theirs
def test_two_processes_train_and_score_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Their halves hold unequally many scored positions; the 7 rows of an evaluation set do not share out evenly."""
    if torch.cuda.is_initialized():
        pytest.skip("CUDA, used by an earlier test, does not survive the fork")

    def run(batch_size: int, **options: Any) -> tuple[Tensor, Any, Any, Path]:
        root = tmp_path / str(batch_size)
        source = data(train_length=(1, 9), batch_size=batch_size, eval_lengths=[3, 5], eval_batch_size=batch_size // 2)
        source.curriculum = AdaptiveLengths(start=4, smoothing=0.5, threshold=0.05)
        weights = trained(root, source, partial(FPRNN, solver=PicardSolver(tol=1e-6)), max_epochs=2, **options)
        model, log = module(partial(FPRNN, solver=PicardSolver(tol=1e-6))), trainer(root, **options)
        nn.utils.vector_to_parameters(weights, model.parameters())
        val = log.validate(model, source, verbose=False)
        test = log.test(model, source, verbose=False)
        writer = PredictionWriter(folder=str(root))
        trainer(root, writer, **options).predict(model, source, return_predictions=False)
        return weights, val, test, root

    one, two = run(8), run(4, devices=2, strategy="ddp_fork")
    torch.testing.assert_close(two[0], one[0], atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(two[1] + two[2], one[1] + one[2], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    for name in ("predictions-0.npz", "predictions-1.npz"):
        ours, theirs = np.load(two[3] / name), np.load(one[3] / name)
        assert ours["index"].tolist() == list(range(7))
        assert np.array_equal(ours["tokens"], theirs["tokens"])
        assert ours["mask"].all()


class Drifting(SequenceModeling):
    """Starts from another seed of random caps on each process, and keeps what each drew."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.random_max_iterations is not None
        self.random_max_iterations.seed += self.trainer.global_rank

    def on_train_end(self) -> None:
        drawn = torch.tensor(self.model.layers[0].solver.caps)[:, 1]  # type: ignore[union-attr]
        torch.save(drawn, Path(self.trainer.default_root_dir) / f"caps-{self.trainer.global_rank}.pt")


def test_two_processes_draw_the_same_caps(tmp_path: Path) -> None:
    """The first one's: they would iterate unequally long, and a resumed run would not know whose to take up."""
    if torch.cuda.is_initialized():
        pytest.skip("CUDA, used by an earlier test, does not survive the fork")
    draws = GammaIterations(seed=5)
    layer = partial(FPRNN, solver=Spy())
    model = Drifting(9, 2, layer=layer, d_model=8, optimizer=Adam, random_max_iterations=draws)
    run = trainer(tmp_path, devices=2, strategy="ddp_fork", limit_val_batches=0)
    run.fit(model, data(steps_per_epoch=12, batch_size=4))
    first, second = (torch.load(tmp_path / f"caps-{rank}.pt", weights_only=True).tolist() for rank in range(2))
    assert first == second == [GammaIterations(seed=5).cap(step, 6) for step in range(12)]
    assert first != [GammaIterations(seed=6).cap(step, 6) for step in range(12)]


# --- solves that diverge


class DoublingEquation(FPRNNEquation):
    """States double at every application."""

    def step(self, state: Tensor) -> Tensor:
        return 2 * state + self.drive


class Doubling(FPRNN):
    """A layer whose equation has no fixed point that an iteration finds."""

    def equation(self, inputs: Any, cache: Any = None) -> FPRNNEquation:
        return DoublingEquation(*super().equation(inputs, cache))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
def test_a_fixed_count_that_diverges_is_refused_in_any_batch(tmp_path: Path) -> None:
    model = module(partial(Doubling, solver=FixedCountSolver(20)))
    with pytest.raises(FloatingPointError, match="FixedCountSolver diverged in 8 of 8 sequences within 20 iterations"):
        trainer(tmp_path, log_every_n_steps=50).fit(model, data())
    assert model.trainer.global_step == 0
    with pytest.warns(UserWarning, match="FixedCountSolver diverged in .* and the answers there are wrong"):
        trainer(tmp_path).validate(model, data(), verbose=False)
    model = module(partial(Doubling, solver=FixedCountSolver(4)))
    trainer(tmp_path).fit(model, data())


# --- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": None}, "vocab_size=None: is not known from the data"),
        ({"layer": None}, "layer=None: the model needs one"),
        (
            {"layer": HouseholderMixer},
            "layer=HouseholderMixer: is a part of a layer; give a layer such as FPRNN",
        ),
        ({"optimizer": None}, "optimizer=None: training needs one"),
        ({"bias_weight_decay": -1.0}, "bias_weight_decay=-1.0: must be at least 0"),
        ({"exempt_weight_decay": -1.0}, "exempt_weight_decay=-1.0: must be at least 0"),
        ({"eval_max_iterations": 0}, "eval_max_iterations: 0 is too small"),
        ({"iteration_sequences": 0}, "iteration_sequences: 0 is too small"),
        ({"layer": LSTMLayer, "eval_max_iterations": 3}, "eval_max_iterations=3: no layer is solved"),
        (
            {"layer": partial(FPRNN, solver=AutomaticSolver()), "random_max_iterations": GammaIterations()},
            "random_max_iterations=GammaIterations: no layer is solved by iterating alone; give it a Pica",
        ),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        SequenceModeling(**({"vocab_size": 9, "num_targets": 2} | options))
    assert "\n" not in str(raised.value)


def test_data_with_more_tokens_than_the_model_are_refused_before_anything_runs(tmp_path: Path) -> None:
    source = SequenceDataModule(WordProblem("S3"))
    with pytest.raises(ValueError, match=r"vocab_size=9: too small for data with 13; use that"):
        trainer(tmp_path).fit(module(), source)


@pytest.mark.parametrize("solver", [PicardSolver(tol=1e-9), FixedCountSolver(3, tol=1e-9)])
def test_a_tolerance_below_the_precision_is_refused_before_anything_runs(tmp_path: Path, solver: Any) -> None:
    model = module(layer=partial(FPRNN, solver=solver))
    with pytest.raises(ValueError, match=r"tol=1e-09: too small for torch.float32; use 2.4e-07 or more"):
        trainer(tmp_path).fit(model, data())
