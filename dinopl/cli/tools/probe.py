"""``dinopl probe``: probes of a finished run's networks, or of any encoder without a run.

A thin shell: its options become those of ``dinopl test`` (``validate`` for ``--split val``), which reads checkpoints,
makes the run folder and writes the results, so that devices, precision and configuration files work as everywhere.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from dinopl.core.errors import UserMistake

HELP = """\
usage: dinopl probe --ckpt_path RUN_OR_CHECKPOINT [--probes NAME ...] [--data DATA_SET] [options]
       dinopl probe --encoder CLASS [--encoder.OPTION VALUE ...] --data DATA_SET [--probes NAME ...] [options]

Trains probes on frozen features and prints their accuracies. Results go to a new run folder: results.json, metrics.csv,
config.yaml.

  --ckpt_path PATH   a run of self-distillation, or a checkpoint of one: student, teacher and input are probed, with the
                     data and the probes of that run unless others are named
  --encoder CLASS    an encoder, drawn at random with the run's seed or pretrained, and the input
  --data DATA_SET    a set, such as CIFAR10Images, or a data module; options are --data.dataset.OPTION, --data.OPTION
  --probes NAME ...  LinearProbe, KNNProbe, WeightedKNNProbe, LogisticRegressionProbe, LDAProbe; with options as YAML:
                     '[{class_path: KNNProbe, init_args: {k: 5, features: bottleneck}}]'
  --split test|val   the split to judge on, test by default

All options of `dinopl test` may follow, such as --config, --seed_everything, --name, --trainer.accelerator.

try:
  dinopl probe --ckpt_path runs/random_teacher/TIME
  dinopl probe --ckpt_path runs/random_teacher/TIME --probes LogisticRegressionProbe LDAProbe
  dinopl probe --encoder MiniVGG --data DigitsImages --seed_everything 1
"""
FAMILIES = ("SelfDistillation", "EncoderProbing")
OWN = {"--model.encoder": "--encoder", "--model.probes": "--probes"}  # as the run calls it, as the user does


def probe(arguments: Sequence[str]) -> int:
    """Runs ``dinopl probe`` with the arguments after the word ``probe``."""
    if not arguments or {"--help", "-h"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    command, tokens = translated(arguments)
    from dinopl.cli.runs import run

    try:
        run(command, tokens)
    except UserMistake as mistake:
        text = str(mistake)
        for theirs, ours in OWN.items():
            text = text.replace(theirs, ours)
        raise UserMistake(text) from mistake
    return 0


def translated(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command that a probe is, and its options.

    Raises:
        UserMistake: if there is nothing to probe, or it is of another family.
    """
    given: list[tuple[str, list[str]]] = []  # options may be repeated: --probes+=KNNProbe --probes+=LDAProbe
    for word in arguments:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            given.append((name, [value] if equals else []))
        elif given:
            given[-1][1].append(word)
        else:
            raise UserMistake(f"probe {word}: give options only, such as --ckpt_path {word}.")
    single = dict.fromkeys(("--ckpt_path", "--encoder", "--data", "--split"), "")
    for name, values in given:
        if name in single:
            if len(values) != 1:
                raise UserMistake(f"probe: {name} takes one value; `dinopl probe --help` explains.")
            single[name] = values[0]
    path, encoder, data, split = single.values()
    if split not in ("", "test", "val"):
        raise UserMistake(f"probe: --split {split}: give test or val.")
    names = {name for name, _ in given}
    options = [] if "--name" in names else ["--name=probe"]
    if path and encoder:
        raise UserMistake("probe: --encoder: a checkpoint has its own; give one of --ckpt_path and --encoder.")
    if path:
        options.append(f"--ckpt_path={checkpoint_to_probe(path, bool(names & {'--probes', '--probes+'}))}")
    elif not encoder:
        raise UserMistake("probe: give --ckpt_path RUN_OR_CHECKPOINT, or --encoder CLASS --data DATA_SET.")
    elif not data and "--config" not in names:
        raise UserMistake("probe: --data: name the images to probe on, such as DigitsImages or CIFAR10Images.")
    else:
        options.append("--model=dinopl.probes.module.EncoderProbing")
    if data and is_source(data):
        options += [] if path else ["--data=ImageDataModule"]
        data = f".dataset={data}"
    else:
        data = f"={data}"
    for name, values in given:
        if name == "--data":
            options.append(f"--data{data}")
        elif name not in ("--ckpt_path", "--split"):
            if name == "--probes" and all(word.replace(".", "").isidentifier() for word in values):
                values = [yaml.safe_dump([{"class_path": word} for word in values], default_flow_style=True)]
            whole = next((f"{theirs}{name.removeprefix(o)}" for theirs, o in OWN.items() if name.startswith(o)), name)
            options += [f"{whole}={values[0]}"] if len(values) == 1 else [whole, *values]
    return "validate" if split == "val" else "test", options


def checkpoint_to_probe(path: str, named: bool) -> str:
    """The checkpoint of a run's folder, or the path itself.

    Args:
        path: of a run folder or a checkpoint.
        named: whether probes are named; otherwise the run must have some.

    Raises:
        UserMistake: if there is none, it is of another family, or there is nothing to probe with.
    """
    from dinopl.core.checkpoints import load_checkpoint

    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "checkpoints" / "last.ckpt"
        if not file.is_file():
            raise UserMistake(f"--ckpt_path {path}: has no checkpoints/last.ckpt; give the folder of a finished run.")
    try:
        about = load_checkpoint(file).get("dinopl")
    except (ValueError, OSError) as error:
        raise UserMistake(f"--ckpt_path {error}") from error
    about = about if isinstance(about, dict) else {}
    family = about.get("family")
    if family not in FAMILIES:
        found = f"a checkpoint of {family}" if family else "no checkpoint of ours"
        raise UserMistake(f"--ckpt_path {path}: {found}; probes take one of {FAMILIES[0]}, or an encoder by --encoder.")
    config = about.get("config")
    for key in ("model", "init_args", "probes"):
        config = config.get(key) if isinstance(config, dict) else None
    if not config and not named:
        raise UserMistake(
            f"--ckpt_path {path}: the run has no probes; name some, such as --probes LinearProbe KNNProbe."
        )
    return str(file)


def is_source(name: str) -> bool:
    """Whether a word names a set of images, and not a data module."""
    import dinopl.data as data

    found = getattr(data, name.rpartition(".")[2], None)
    return isinstance(found, type) and issubclass(found, data.ImageSource)
