"""Training and evaluation of a sequence model, as one LightningModule.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 4 and appendix D. What differs from the released code:
positions that hold no answer enter neither loss nor accuracy; every length is scored by itself; the solvers' statistics
stay on the device until they are logged; and the iterations that a test reports are counted by the paper's rule on the
trained weights, whatever solver trained them.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from dinopl.core.errors import check_sizes
from dinopl.core.module import BaseModule
from dinopl.core.optimizer import check_weight_decay, decay_groups
from fprnn.counting import IterationCounter, fixed_point_layers, iteration_tallies, layer_statistics, solve_summary
from fprnn.iteration_caps import RandomIterations, capped_solvers, training_cap
from fprnn.metrics import Scores, Tally, answer_tallies, masked_cross_entropy, sequence_hits
from fprnn.model import SequenceModel
from fprnn.solvers import FixedCountSolver, FixedPointSolver, IterativeSolver
from fprnn.solvers.picard import check_tolerance
from fprnn.tasks.task import SequenceBatch

Split = Literal["val", "test"]
LENGTHS = {"val": "val_lengths", "test": "eval_lengths"}  # what a data module calls them


class SequenceModeling(BaseModule):
    """A sequence model trained to answer at each scored position, and scored by length.

    Logged are ``train/loss`` and ``train/sequence_accuracy`` of each batch, how its fixed points were solved
    (``train/iterations``, ``train/capped``) and its length; for validation and test ``loss``, ``token_accuracy`` and
    ``sequence_accuracy`` under names such as ``test/token_accuracy/length=64``. A test also counts iterations:
    ``test/iterations/length=64``, the share of sequences that did not converge (``test/iterations_capped``) and how
    often the iteration's own answers are right (``test/iterated_sequence_accuracy``).

    A data module with a ``curriculum`` that ``needs_accuracy`` gets that of each batch through ``observe``; lengths are
    those of its ``val_lengths`` and ``eval_lengths``, else the width of a loader's first batch.

    Args:
        vocab_size: number of different input tokens. The command links it from the data.
        num_targets: number of classes. The command links it from the data.
        optimizer: makes the optimiser. It gets the trainable parameters in groups: weights, which decay by the
            optimiser's own ``weight_decay``, and those with a weight decay of their own by the next options.
        lr_scheduler: makes the learning-rate schedule, such as WarmupCosine.
        lr_scheduler_interval: whether the schedule moves every optimiser step or every epoch.
        bias_weight_decay: weight decay of biases and norms; None is the optimiser's own.
        exempt_weight_decay: weight decay of what layers exempt, such as the rates and the skip connection of FPMamba;
            None is the optimiser's own.
        random_max_iterations: draws a cap on the iterations (l_max) for each training step; None leaves the solver's.
        eval_max_iterations: cap on the iterations in validation and test; None leaves the solver's.
        iterations: count iterations in tests, by the paper's rule; or the solver to count with; false counts none.
        iteration_sequences: sequences of each length, and process, that are counted, since that takes many times as
            long as answering; None counts all.
        model_options: of :class:`~fprnn.model.SequenceModel`, such as ``layer`` and ``d_model``.

    Raises:
        ValueError: if an option is out of range; the message names it.
    """

    family = "SequenceModeling"

    def __init__(
        self,
        vocab_size: int,
        num_targets: int,
        *,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        lr_scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "step",
        bias_weight_decay: float | None = 0.0,
        exempt_weight_decay: float | None = 0.0,
        random_max_iterations: RandomIterations | None = None,
        eval_max_iterations: int | None = None,
        iterations: IterativeSolver | bool = True,
        iteration_sequences: int | None = 256,
        **model_options: Any,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, lr_scheduler_interval)
        if optimizer is None:  # which the command can pass whatever the annotation says
            raise ValueError("optimizer=None: training needs one; give a class such as AdamW")
        check_sizes(eval_max_iterations=eval_max_iterations, iteration_sequences=iteration_sequences)
        check_weight_decay(bias_weight_decay=bias_weight_decay, exempt_weight_decay=exempt_weight_decay)
        self.model = SequenceModel(vocab_size, num_targets, **model_options)
        self.bias_weight_decay, self.exempt_weight_decay = bias_weight_decay, exempt_weight_decay
        self.random_max_iterations = random_max_iterations
        self.counter = None
        if iterations is not False:
            self.counter = IterationCounter(iterations if isinstance(iterations, IterativeSolver) else None)
            for layer in fixed_point_layers(self.model).values():
                self.counter.solver.check(linear=getattr(layer, "loop_norm", None) is None)
        self.iteration_sequences = iteration_sequences
        self._solvers = capped_solvers(self.model)
        caps = {"random_max_iterations": random_max_iterations, "eval_max_iterations": eval_max_iterations}
        for name, cap in caps.items():
            if cap is not None and not self._solvers:
                shown = cap if isinstance(cap, int) else type(cap).__name__
                raise ValueError(
                    f"{name}={shown}: no layer is solved by iterating alone; give it a PicardSolver, or leave this at "
                    "None"
                )
        for solver in self._solvers:
            solver.eval_max_iterations = eval_max_iterations or solver.eval_max_iterations
        self.scores = Scores()
        self._lengths: dict[int, str] = {}  # by loader
        self._rows: dict[int, int] = {}  # seen so far, by loader
        self._accuracy: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, T, num_targets)`` for tokens ``(B, T)``."""
        return self.model(tokens)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group for each weight decay."""
        return decay_groups(self.model, self.bias_weight_decay, self.exempt_weight_decay)

    def setup(self, stage: str) -> None:
        """Compares vocabulary and longest context with the data's, and tolerances with the precision.

        Raises:
            ValueError: if the data have more tokens or targets than the model, or longer sequences than a Transformer
                takes, or a tolerance cannot be reached.
        """
        for name in ("vocab_size", "num_targets"):
            ours, theirs = getattr(self.model, name), getattr(self._data, name, 0)
            if theirs > ours:
                raise ValueError(f"{name}={ours}: too small for data with {theirs}; use that")
        self.model.check_context(getattr(self._data, "max_tokens", 0))
        double = self.dtype == torch.float64 or self.trainer.precision == "64-true"
        for solver in (*self.model.modules(), self.counter and self.counter.solver):
            if isinstance(solver, IterativeSolver | FixedCountSolver):
                check_tolerance(solver.tol, torch.float64 if double else torch.float32)

    def on_fit_start(self) -> None:
        """Shares the first process's seed of random caps."""
        if self.random_max_iterations is not None:
            self.random_max_iterations.seed = self.trainer.strategy.broadcast(self.random_max_iterations.seed)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step.

        Args:
            batch: a ``SequenceBatch``, or tokens and targets.
            batch_idx: position in the epoch.

        Returns:
            The sum of the cross-entropy over this process's scored positions, divided by the number of all processes'
            and multiplied by the number of processes, over which gradients are averaged.

        Raises:
            ValueError: if the batch has a token or target that the model does not know.
        """
        sequences = self._sequences(batch, batch_idx)
        caps, length = self.random_max_iterations, sequences["tokens"].shape[1]
        with training_cap(self._solvers, None if caps is None else caps.cap(self.trainer.global_step, length)):
            logits = self._answers(sequences["tokens"], look=self._about_to_log)
        loss = masked_cross_entropy(logits, sequences["targets"], sequences["mask"])
        right = sequence_hits(logits.argmax(-1), sequences["targets"], sequences["mask"])
        sums = torch.stack([scalar.float() for scalar in (loss.total.detach(), loss.number, *right)])
        if self.trainer.world_size > 1:  # over processes, in one message
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        total, count, hits, counted = sums.unbind()
        self._accuracy = hits / counted.clamp_min(1)
        self.log("train/loss", total / count.clamp_min(1), prog_bar=True)
        self.log("train/sequence_accuracy", self._accuracy, prog_bar=True)
        self._log_progress(batch_idx)
        share = loss.number * (self.trainer.world_size / count.to(loss.total.dtype).clamp_min(1))
        return self.weighted(loss.total / loss.number.clamp_min(1), {"share": share})

    def on_after_backward(self) -> None:
        """Gives the curriculum the batch's accuracy.

        Here, because it is before anything can save a checkpoint, and because it waits for the device, which by now has
        the backward pass to do.
        """
        accuracy, self._accuracy = self._accuracy, None
        data = self._data
        if accuracy is not None and getattr(getattr(data, "curriculum", None), "needs_accuracy", False):
            data.observe(accuracy)

    def on_validation_epoch_start(self) -> None:
        """Drops the last epoch's scores, or what an aborted evaluation left."""
        self.scores.reset()
        self._lengths, self._rows = {}, {}

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores one batch of one length."""
        self._score("val", self._sequences(batch, batch_idx), dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores one batch of one length, and counts the iterations that it takes."""
        sequences = self._sequences(batch, batch_idx)
        self._score("test", sequences, dataloader_idx)
        if self.counter is None or not fixed_point_layers(self.model):
            return
        seen = self._seen(dataloader_idx, len(sequences["tokens"]))
        left = None if self.iteration_sequences is None else self.iteration_sequences - seen
        if left is not None and left <= 0:
            return
        tokens, targets, mask = sequences["tokens"][:left], sequences["targets"][:left], sequences["mask"][:left]
        logits, statistics = self.counter(self.model, tokens)
        tallies = iteration_tallies(logits, statistics, targets, mask, layers=len(self.model.layers))
        self._add("test", tallies, self._length("test", dataloader_idx, tokens))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """The most likely class at each position.

        Returns:
            ``index`` of each row in its data set, ``(B,)``; ``tokens``, ``prediction``, ``target`` and ``mask``,
            ``(B, T)``.
        """
        sequences = self._sequences(batch, batch_idx, answered=False)
        tokens = sequences["tokens"]
        # This process's rows are every world_size-th one, as Lightning shares them out, unless the batch has an index.
        rows = torch.arange(len(tokens)) + self._seen(dataloader_idx, len(tokens))
        index: Any = sequences.get("index", rows * self.trainer.world_size + self.trainer.global_rank)
        return {
            "index": index.to(tokens.device),
            "tokens": tokens,
            "prediction": self(tokens).argmax(-1),
            "target": sequences["targets"],
            "mask": sequences["mask"],
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the checkpoint with its family, the vocabulary, and where random caps are drawn from."""
        super().on_save_checkpoint(checkpoint)
        ours = checkpoint["dinopl"]
        ours.update(vocab_size=self.model.vocab_size, num_targets=self.model.num_targets)
        if self.random_max_iterations is not None:
            ours["iteration_seed"] = self.random_max_iterations.seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues from a checkpoint of the same family, vocabulary and shapes, however its layers were solved.

        Raises:
            ValueError: if it does not fit.
        """
        super().on_load_checkpoint(checkpoint)
        theirs, state, own = checkpoint.get("dinopl", {}), checkpoint["state_dict"], self.state_dict()
        for name in ("vocab_size", "num_targets"):
            value: int = getattr(self.model, name)
            if theirs.get(name, value) != value:
                raise ValueError(
                    f"{name}={value}: the checkpoint was trained with {theirs[name]}; give data of the task of its "
                    "training"
                )
        for name, tensor in own.items():
            found = state.get(name)
            if isinstance(tensor, Tensor) and isinstance(found, Tensor) and found.shape != tensor.shape:
                raise ValueError(
                    f"ckpt_path: {name} is {tuple(found.shape)} in the checkpoint and {tuple(tensor.shape)} here; set "
                    "layer, d_model and pad_vocab_to to what it was trained with"
                )
        # Weights are the same for every solver, but some solvers remember what training found. A memory without its
        # solver is dropped; a solver without its memory keeps what it has.
        solvers = {name for name, part in self.named_modules() if isinstance(part, FixedPointSolver)}
        ours = {f"{name}._extra_state" for name in solvers} & own.keys()
        for name in [name for name in state if name.endswith("solver._extra_state") and name not in ours]:
            del state[name]
        state.update({name: own[name] for name in ours - state.keys()})
        caps = self.random_max_iterations
        if caps is not None and caps.derived:
            caps.seed = theirs.get("iteration_seed", caps.seed)

    def _sequences(self, batch: Any, batch_idx: int, answered: bool = True) -> SequenceBatch:
        """The batch in one form. Its ids are looked at: on a CPU always, elsewhere in a first batch, since it waits."""
        sequences = as_sequence_batch(batch)
        tokens, mask = sequences["tokens"], sequences["mask"]
        if batch_idx == 0 or tokens.device.type == "cpu":
            check_range("token", tokens, vocab_size=self.model.vocab_size)
            if answered:
                check_range("target", sequences["targets"][mask], num_targets=self.model.num_targets)
        return sequences

    @property
    def _about_to_log(self) -> bool:
        """Whether Lightning logs this step."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def _answers(self, tokens: Tensor, look: bool) -> Tensor:
        """Logits of tokens ``(B, T)``, unless a solve of a fixed number of iterations diverged.

        Such a solver leaves that to others, so that it compiles whole. It is looked at on a CPU always, elsewhere only
        if ``look``, since it waits for the device.
        """
        logits = self(tokens)
        if look or tokens.device.type == "cpu":
            for layer in fixed_point_layers(self.model).values():
                if isinstance(layer.solver, FixedCountSolver) and layer.statistics is not None:
                    layer.solver.refuse(layer.statistics)
        return logits

    def _log_progress(self, batch_idx: int) -> None:
        """How the fixed points were solved, and the batch's length: where Lightning is about to log."""
        if not self._about_to_log:
            return
        summary = solve_summary(layer_statistics(self.model), layers=len(self.model.layers))
        for name, value in summary.items():  # an iteration that stops at its cap, perhaps diverging, is to be seen
            self.log(f"train/{name}", value, prog_bar=name == "capped" and bool(self._solvers))
        data = self._data
        if hasattr(data, "lengths_at") and hasattr(data, "steps_per_epoch"):
            step = self.trainer.current_epoch * data.steps_per_epoch + batch_idx
            self.log("train/length", float(data.lengths_at(step).longest))

    def _score(self, split: Split, batch: SequenceBatch, loader: int) -> None:
        logits = self._answers(batch["tokens"], look=True)
        tallies = answer_tallies(logits, batch["targets"], batch["mask"])
        measures = getattr(getattr(self._data, "task", None), "measures", None)
        if measures is not None:  # what the task itself makes of the answers
            tallies |= {name: Tally(*share) for name, share in measures(logits.argmax(-1), batch).items()}
        self._add(split, tallies, self._length(split, loader, batch["tokens"]))

    def _add(self, split: Split, tallies: dict[str, Tally], length: str) -> None:
        """Logs one value for each name and length, over all batches and processes."""
        for name, tally in tallies.items():
            full = f"{split}/{name}/length={length}"
            self.log(
                full,
                self.scores.add(full, tally),
                on_step=False,
                on_epoch=True,
                batch_size=1,
                add_dataloader_idx=False,
                metric_attribute=f"scores.{full}",
            )

    def _length(self, split: Split, loader: int, tokens: Tensor) -> str:
        """What a loader's scores are logged under: the first process's answer, so that it is the same on all."""
        if loader not in self._lengths:
            known = getattr(self._data, LENGTHS[split], None) or ()
            length = str(known[loader] if loader < len(known) else tokens.shape[1])
            taken = length in self._lengths.values()
            name = f"{length}/loader={loader}" if taken else length
            self._lengths[loader] = self.trainer.strategy.broadcast(name)
        return self._lengths[loader]

    def _seen(self, loader: int, rows: int) -> int:
        """Rows of a loader before the present batch, which has so many."""
        seen = self._rows.get(loader, 0)
        self._rows[loader] = seen + rows
        return seen

    @property
    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)


def as_sequence_batch(batch: Any) -> SequenceBatch:
    """Tokens, targets and mask, from a mapping of these names or a sequence in this order; no mask scores everything.

    What else a mapping holds is kept.

    Raises:
        TypeError: if it is anything else.
    """
    if isinstance(batch, list | tuple) and 2 <= len(batch) <= 3:
        batch = dict(zip(("tokens", "targets", "mask"), batch, strict=False))
    if not isinstance(batch, Mapping) or not batch.keys() >= {"tokens", "targets"}:
        raise TypeError(f"a batch must hold tokens, targets and perhaps a mask; got {type(batch).__name__}")
    columns: Any = dict(batch)
    columns["targets"] = columns["targets"].long()
    columns["mask"] = columns.get("mask", torch.ones_like(columns["targets"])).bool()
    return columns


def check_range(kind: str, ids: Tensor, **count: int) -> None:
    """Refuses tokens or targets that the model has no row for; waits for their device.

    Args:
        kind: what one of the ids is.
        ids: integers of any shape.
        count: how many different ones the model knows, under the name of its argument.

    Raises:
        ValueError: if one is negative, or not below the count.
    """
    if not ids.numel():
        return
    ((name, known),) = count.items()
    least, most = (int(bound) for bound in ids.aminmax())
    if most >= known:
        raise ValueError(f"{name}={known}: too small for data with {kind} {most}; use {most + 1}, or correct the data")
    if least < 0:
        raise ValueError(
            f"{name}={known}: the data have {kind} {least}; number from 0 and mask what is not to be scored"
        )


# Signature and annotations show the model's options in the place of ``**model_options``.
_shown = {
    name: option.replace(kind=option.KEYWORD_ONLY)
    for name, option in inspect.signature(SequenceModel).parameters.items()
}
_shown.update(
    (name, option) for name, option in inspect.signature(SequenceModeling).parameters.items() if name != "model_options"
)
SequenceModeling.__signature__ = inspect.Signature(list(_shown.values()))  # type: ignore[attr-defined]
SequenceModeling.__init__.__annotations__ |= SequenceModel.__init__.__annotations__
