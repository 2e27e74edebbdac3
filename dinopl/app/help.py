"""What ``dinopl --help`` and ``dinopl --version`` print, without importing torch."""

from importlib.metadata import PackageNotFoundError, version

HELP = """\
usage: dinopl COMMAND [--config FILE ...] [--OPTION VALUE ...]

Student/teacher self-distillation, fixed-point RNNs and knowledge distillation as Lightning modules.

runs:
  fit        train, probe, and test at the end
  validate   losses and probes on the split held out of the training data
  test       losses and probes on the test split
  predict    embeddings and logits with their index, to predictions.npz

tools:
  configs    ls | show NAME | cp NAME [DIRECTORY]: the shipped configurations
  export     a checkpoint's encoders and heads to safetensors, for dinopl.load_encoder

options of every run (all of them: dinopl fit --help, dinopl fit --model.help SelfDistillation):
  --config FILE            YAML; several are laid over one another, a later one wins, an option wins over all
  --ckpt_path FILE         resume (fit) or use (validate, test, predict) a checkpoint
  --seed_everything N      the run's seed, 0 by default
  --name NAME              the run's folder is DIR/NAME/TIME; by default the first configuration's name
  --trainer.default_root_dir DIR   where run folders go, runs by default
  --threads N              CPU threads of this process
  --print_config           the complete configuration, then stop
  --traceback              show where a mistake was found
  --version                versions of dinopl, torch and lightning

try:
  dinopl fit --config configs/random_teacher.yaml
  dinopl fit --config configs/random_teacher.yaml --model.student InterpolatedStart --model.student.alpha 0.5
  dinopl configs ls
"""


def versions() -> str:
    """One line a package: name and version."""

    def line(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"{package} not installed"

    return "\n".join(map(line, ("dinopl", "torch", "lightning")))
