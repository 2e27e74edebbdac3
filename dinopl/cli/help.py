"""What ``dinopl --help`` and ``dinopl --version`` print, without importing torch."""

from importlib.metadata import PackageNotFoundError, version

HELP = """\
usage: dinopl COMMAND [--config FILE ...] [--OPTION VALUE ...]

Student/teacher self-distillation, fixed-point RNNs and knowledge distillation as Lightning modules.

runs:
  fit        train, and test at the end
  validate   losses and scores on the split held out of the training data
  test       losses and scores on the test split
  predict    what the model answers, with its index, to predictions.npz

tools:
  sweep      many runs from one file, on any number of processes and machines; go on where it stopped
  report     runs or a study as a table over seeds, differences, a figure; or two runs side by side
  configs    ls | show NAME | cp NAME [DIRECTORY] | schema: the shipped configurations, and their JSON schema
  export     a checkpoint's encoders and heads to safetensors, for dinopl.load_encoder
  cite       BibTeX of what a configuration or a run uses
  doctor     versions, devices, threads, data found: what to put into an issue

options of every run (all of them: dinopl fit --help, dinopl fit --model.help SelfDistillation):
  --config FILE            YAML; several are laid over one another, a later one wins, an option wins over all
  --ckpt_path FILE         resume (fit) or use (validate, test, predict) a checkpoint
  --trusted-modules NAME ...   your own modules that a checkpoint's configuration may name
  --seed_everything N      the run's seed, 0 by default
  --name NAME              the run's folder is DIR/NAME/TIME; by default the first configuration's name
  --trainer.default_root_dir DIR   where run folders go, runs by default
  --threads N              CPU threads of this process
  --print_config           the complete configuration, then stop
  --traceback              show where a mistake was found
  --version                versions of dinopl, torch and lightning

try:
  dinopl fit --config configs/random_teacher.yaml
  dinopl fit --config configs/fprnn/parity.yaml --model.layer DiagonalRNN
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
