"""The library does not know the command: it names arguments, and the command puts the option's path before them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OPTION = re.compile(r"--(model|data|trainer|ckpt_path)\b")
KNOW_THE_COMMAND = ("dinopl/cli/", "dinopl/sweep/")  # a study's file names options

# Files that still name options: take a file out once it no longer does.
STILL_NAME_OPTIONS = {
    "dinopl/core/checkpoints.py",
    "dinopl/core/files.py",
    "dinopl/data/images.py",
    "dinopl/data/module.py",
    "dinopl/data/order.py",
    "dinopl/data/sources/base.py",
    "dinopl/data/sources/downloads.py",
    "dinopl/data/sources/torchvision.py",
    "dinopl/data/splits.py",
    "dinopl/distillation/heads.py",
    "dinopl/distillation/losses.py",
    "dinopl/distillation/module.py",
    "dinopl/distillation/student_start.py",
    "dinopl/distillation/teacher_cache.py",
    "dinopl/distillation/teachers.py",
    "dinopl/encoders/common.py",
    "dinopl/encoders/conv_net.py",
    "dinopl/encoders/mini_vgg.py",
    "dinopl/encoders/vgg.py",
    "dinopl/loading.py",
    "dinopl/optim.py",
    "dinopl/probes/callback.py",
    "fprnn/baselines/foreign.py",
    "fprnn/baselines/transformer.py",
    "fprnn/checkpoints.py",
    "fprnn/iteration_caps.py",
    "fprnn/model.py",
    "fprnn/module.py",
    "fprnn/tasks/catbabi.py",
    "fprnn/tasks/copying.py",
    "fprnn/tasks/curriculum.py",
    "fprnn/tasks/cycle_navigation.py",
    "fprnn/tasks/data.py",
    "fprnn/tasks/formal.py",
    "fprnn/tasks/groups.py",
    "fprnn/tasks/parity.py",
    "fprnn/tasks/stories.py",
    "fprnn/tasks/text.py",
    "kd/data.py",
    "kd/evaluation.py",
    "kd/features/objectives.py",
    "kd/losses/base.py",
    "kd/losses/kl.py",
    "kd/losses/logits.py",
    "kd/module.py",
    "kd/networks.py",
    "kd/targets/base.py",
    "kd/targets/pooled.py",
    "kd/targets/random_head.py",
    "kd/targets/rearranged.py",
    "kd/targets/reduced.py",
    "kd/targets/smoothing.py",
    "kd/teacher/outputs.py",
    "kd/teacher/sources.py",
    "kd/text.py",
}


def test_no_option_of_the_command_is_named_in_the_library() -> None:
    sources = {
        str(path.relative_to(ROOT)): path.read_text()
        for package in ("dinopl", "fprnn", "kd")
        for path in (ROOT / package).rglob("*.py")
    }
    assert len(sources) > 100
    library = {name: text for name, text in sources.items() if not name.startswith(KNOW_THE_COMMAND)}
    assert {name for name, text in library.items() if OPTION.search(text)} == STILL_NAME_OPTIONS
