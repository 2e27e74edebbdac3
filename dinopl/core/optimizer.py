"""What an optimiser gets: parameters in groups, by what decays; and how many steps a training has.

Two rules for weight decay. "Random Teachers are Good Teachers", appendix E.4: no decay for biases and normalisation
weights, by dimension (``parameter_groups``). What differs from the published code: there the group of the biases keeps
AdamW's default weight decay of 0.01 by oversight; here it has none, and ``bias_weight_decay=0.01`` gives the code's
behaviour. "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) and its released code: no decay on word problems and text
for biases, norms and what a layer exempts, by name (``decay_kinds``); on arithmetic for the last alone, and for nothing
on copying and catbAbI.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

DecayKind = Literal["weight", "bias", "exempt"]
"""What weight decay distinguishes; a norm's parameters count as biases."""


def parameter_groups(module: nn.Module, bias_weight_decay: float | None = 0.0) -> list[dict[str, Any]]:
    """Groups of the trainable parameters for any torch optimiser: weights, then biases.

    A parameter counts as a bias if its name ends in ``bias`` or it has at most one dimension; so do the weights of norm
    layers. Groups keep the module's order; a shared parameter comes once; an empty group is left out.

    Args:
        module: whose parameters to take, as far as they require a gradient.
        bias_weight_decay: weight decay of the biases. None leaves the optimiser's own to them too. Optimisers without
            weight decay ignore it.

    Returns:
        At most two dicts with ``params`` and ``name`` ("weights", "biases"); the weights' decay is the optimiser's own.

    Raises:
        ValueError: if ``bias_weight_decay`` is negative.
    """
    check_weight_decay(bias_weight_decay=bias_weight_decay)
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    biases = [p for name, p in trainable if name.endswith("bias") or p.ndim <= 1]
    of_biases = {id(p) for p in biases}
    weights = [p for _, p in trainable if id(p) not in of_biases]
    decay = {} if bias_weight_decay is None else {"weight_decay": bias_weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": weights, "name": "weights"},
        {"params": biases, "name": "biases"} | decay,
    ]
    return [group for group in groups if group["params"]]


def decay_kinds(module: nn.Module) -> Iterator[tuple[nn.Parameter, DecayKind]]:
    """Yields each trainable parameter with its kind.

    A parameter whose name contains "bias" or "norm" is a ``bias``; one that a submodule lists in its attribute
    ``no_weight_decay`` is ``exempt``, whatever its name; every other is a ``weight``, the embedding and both factors of
    a weight-normalised projection included.
    """
    exempt = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, child in module.named_modules()
        for name in getattr(child, "no_weight_decay", ())
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kind: DecayKind = "bias" if "bias" in name or "norm" in name else "weight"
            yield parameter, "exempt" if name in exempt else kind


def decay_groups(module: nn.Module, bias: float | None = 0.0, exempt: float | None = 0.0) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, one for each weight decay; kinds as in :func:`decay_kinds`.

    Args:
        module: whose parameters are grouped.
        bias: weight decay of biases and norms; None is the optimiser's own, which that of weights always is.
        exempt: likewise, of what layers exempt.

    Returns:
        Dicts with ``params`` and, unless it is the optimiser's own, ``weight_decay``; an empty group is left out.
    """
    decays = {"weight": None, "bias": bias, "exempt": exempt}
    groups: dict[float | None, list[nn.Parameter]] = {None: []}
    for parameter, kind in decay_kinds(module):
        groups.setdefault(decays[kind], []).append(parameter)
    return [
        {"params": parameters} if decay is None else {"params": parameters, "weight_decay": decay}
        for decay, parameters in groups.items()
        if parameters
    ]


def weight_decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: the parameters that decay, by ``weight_decay``, and those that do not; see :func:`decay_kinds`."""
    kinds = list(decay_kinds(module))
    decays = [parameter for parameter, kind in kinds if kind == "weight"]
    stays = [parameter for parameter, kind in kinds if kind != "weight"]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": stays, "weight_decay": 0.0}]


def check_weight_decay(**decays: float | None) -> None:
    """Raises a ValueError that names the first weight decay below 0; None is allowed."""
    for name, decay in decays.items():
        if decay is not None and not decay >= 0:
            raise ValueError(f"{name}={decay}: must be at least 0; 0 switches it off")


def given_options(optimizer: Optimizer, scheduler: Any) -> dict[str, Any]:
    """Options of an optimiser and its schedule (None for none) before the first step, for :func:`follow_given`."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    name, state = ("", {}) if scheduler is None else (type(scheduler).__name__, scheduler.state_dict())
    return {"groups": groups, "scheduler": name, "state": state}


def follow_given(checkpoint: dict[str, Any], then: Any, optimizer: Optimizer, scheduler: Any) -> None:
    """Lets a checkpoint's optimiser and schedule go on with the options that are given now.

    torch keeps options beside the state, so that loading a state brings the former options back: a learning rate that a
    resumed run is given would be recorded and not used. What was given anew replaces the former value, here in the
    checkpoint, before it is loaded. The learning rate is scaled by the new one over the former one, so that it keeps
    its place in the schedule; a schedule that computes each rate from the one before goes on from there.

    Args:
        checkpoint: changed in place.
        then: from :func:`given_options`, in the training that the checkpoint is of; None keeps its options.
        optimizer: as it is made now, before its state is loaded.
        scheduler: likewise; None for none.

    Raises:
        ValueError: if the optimiser is of other parameters.
    """
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    theirs, own = ([len(group["params"]) for group in each] for each in (groups, optimizer.param_groups))
    if theirs != own:
        raise ValueError(
            f"ckpt_path: its optimiser has groups of {theirs} parameters, and this one of {own}; keep what is trained "
            "and what has a weight decay of its own"
        )
    if then is None:
        return
    now = given_options(optimizer, scheduler)
    for group, before, after in zip(groups, then["groups"], now["groups"], strict=True):
        name = "initial_lr" if "initial_lr" in before and "initial_lr" in after else "lr"
        rate = group["lr"]
        for option in group.keys() & before.keys() & after.keys():
            group[option] = _replaced(group[option], before[option], after[option])
        group["lr"] = rate * (after[name] / before[name]) if before[name] else after["lr"]
    for state in checkpoint.get("lr_schedulers") or ():
        if then["scheduler"] == now["scheduler"]:
            for option in state.keys() & then["state"].keys() & now["state"].keys():
                state[option] = _replaced(state[option], then["state"][option], now["state"][option])
        else:  # what another one kept means nothing to it, but for how far the training has come
            place = {name: state[name] for name in ("last_epoch", "_step_count") if name in state}
            state.clear()
            state.update(now["state"] | place)
        if "_last_lr" in state:
            state["_last_lr"] = [group["lr"] for group in groups]


def _replaced(state: Any, before: Any, after: Any) -> Any:
    """A state, with the new value wherever what it began with has changed."""
    if all(isinstance(each, dict) for each in (state, before, after)) and before.keys() == after.keys():
        known = state.keys() & before.keys()
        return {name: _replaced(x, before[name], after[name]) if name in known else x for name, x in state.items()}
    lists = [each for each in (state, before, after) if isinstance(each, list)]
    if len(lists) == 3 and len({len(each) for each in lists}) == 1:
        return [_replaced(*values) for values in zip(state, before, after, strict=True)]
    return state if before == after else after


def rehearse(
    make: Callable[..., Optimizer],
    schedule: Callable[[Optimizer], Any] | None,
    like: Optimizer,
    length: int | None = None,
) -> None:
    """Takes two steps with an optimiser and a schedule of their own, on a small parameter on the device of ``like``.

    What no constructor refuses and every step would fail with is found so before the training.

    Args:
        make: makes the optimiser.
        schedule: makes the schedule; None for none.
        like: the optimiser that will be used.
        length: of the schedule, where it is left to the training.

    Raises:
        ValueError: if a step fails.
    """
    parameter = nn.Parameter(torch.zeros(2, 2, device=like.param_groups[0]["params"][0].device))
    optimizer, part = make([{"params": [parameter]}]), "optimizer"
    try:
        scheduler: Any = None if schedule is None else schedule(optimizer)
        if length is not None:
            scheduler.total_steps = length
        for _ in range(2):
            parameter.grad = torch.zeros_like(parameter)
            part, named = "optimizer", optimizer
            optimizer.step(lambda: 0.0)
            if scheduler is not None:
                part, named = "lr_scheduler", scheduler
                scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
    except Exception as error:  # of whatever class they come from
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{part}={type(named).__name__}: cannot take a step ({text}); give it other options"
        ) from error


def training_length(trainer: Trainer, interval: Literal["step", "epoch"] = "step") -> int | None:
    """How often a schedule moves in the whole training; None where the training has no end.

    Args:
        trainer: of the training, from ``configure_optimizers`` on.
        interval: what the schedule moves with: optimiser steps, or epochs.
    """
    steps = trainer.estimated_stepping_batches
    length: int | None = None
    if 0 < steps < math.inf:
        length = int(steps)
        if interval == "epoch":
            trainer.fit_loop.setup_data()  # no step count alone says how long an epoch is; does nothing the second time
            batches = trainer.num_training_batches
            per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if batches < math.inf else length
            length = math.ceil(length / max(per_epoch, 1))
    elif interval == "epoch" and (trainer.max_epochs or -1) > 0:  # epochs of unknown length, but a number of them
        length = trainer.max_epochs
    if trainer.ckpt_path is not None:
        forget_training_loader(trainer)
    return length


def forget_training_loader(trainer: Trainer) -> None:
    """Makes a trainer set up its training loader once more, with the state that a checkpoint holds for it.

    Lightning restores a loader's state only while it sets the loader up. Whatever asks for the length of the training
    before the loops are restored (a schedule's total, a callback) sets it up too early: the state is then never loaded,
    and the resumed run replays the first batches of its epoch (Lightning 2.6, ``FitLoop.setup_data``).
    """
    loop: Any = trainer.fit_loop
    loop._combined_loader = None
