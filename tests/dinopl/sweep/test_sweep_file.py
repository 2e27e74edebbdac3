"""A sweep file and its runs: what is refused before anything is written, and what counts as the same run."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinopl.cli.config import Arguments, Config, read_config
from dinopl.cli.tools.sweep import places, refuse_several_devices, separate
from dinopl.core.errors import UserMistake
from dinopl.sweep.file import read_sweep
from dinopl.sweep.grid import expand
from dinopl.sweep.plan import Job, Planner, changed, content_id
from tests.dinopl.sweep.conftest import Study

Sweep = Callable[..., tuple[int, Study]]
SEARCH = "search: {model.student.alpha: {from: 0, to: 1}}\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("grd: {}", "no key 'grd'; did you mean 'grid'?"),
        ("grid: {}\nsearch: {}", "`grid` runs every combination and `search` looks for the best; give one of them"),
        ("grid: {model.student.alpha: 0.5}", "grid.model.student.alpha: expected a list of values or a range, got 0.5"),
        ("grid: {model.student.alpha: []}", "an empty list"),
        ("grid: {model.student.alpha: {from: 0, to: 1}}", "a range in a grid needs `number` or `step`"),
        ("grid: {model.student.alpha: {when: {variant: a}}}", "or `values:` with a list"),
        (
            "grid: {a: [1], b: {values: [1], when: {c: 1}}, c: [1]}",
            "`when` names c, which is not among the options before",
        ),
        ("grid: {seed_everything: [1]}", "seed_everything is given as `seeds:`"),
        ("set: {a.b: 1}\ngrid: {a.b: [1]}", "a.b is under `set` and swept as well"),
        ("seeds: [0, 0]", "`seeds` must be a list of different whole numbers"),
        ("seeds: 0", "`seeds` must be a list of different whole numbers"),
        ("metric: val/loss", "`metric` and `direction` belong together"),
        ("metric: val/loss\ndirection: up", "give minimize or maximize"),
        ("name: ../x", "give a relative name without '..'"),
        ("x: model.lr", "`x` names model.lr, which is not swept"),
        ("trials: 3", "`trials` is for `search`"),
        (SEARCH, "a search needs `trials`"),
        (SEARCH + "trials: 3", "a search needs `metric` and `direction`"),
        (SEARCH + "trials: 3\nmetric: test/loss\ndirection: minimize", "measured on the test split"),
        (SEARCH + "trials: 3\nmetric: probe/student/knn\ndirection: maximize", "measured on the test split"),
        (
            SEARCH + "trials: 3\nmetric: val/loss\ndirection: minimize\nseeds: 2",
            "a search runs each point under one seed",
        ),
        ("shared: {t: {option: {}}}", "shared.t: no key 'option'; did you mean 'options'?"),
        (
            "variants: {a: {model.student.alpha: 1}}\ngrid: {model.student.alpha: [0]}",
            "set by a variant and swept as well",
        ),
        ("reference: {val/loss: {1: high}}", "reference.val/loss: expected a number"),
        ("- grid", "holds a list; it must be a mapping"),
        ("grid: [", "not valid YAML"),
        # what only the parser knows
        ("grid: {model.student.alpa: [0]}", "InterpolatedStart has no option 'alpa'; did you mean 'alpha'?"),
        ("grid: {model.student.alpha: [0, high]}", "--model.student.alpha: expected float, got high"),
        ("set: {trainer.max_epoch: 1}", "--trainer.max_epoch: no such option; did you mean 'trainer.max_epochs'?"),
        (SEARCH.replace("alpha", "alph") + "trials: 3\nmetric: val/loss\ndirection: minimize", "did you mean 'alpha'?"),
        ("set: {model.teacher.checkpoint: '${shared.t.checkpoint}'}", "there is no shared run 't'"),
        (
            "set: {trainer.max_steps: '${seeds_everything}'}\nseeds: 1",
            "${seeds_everything} stands for nothing; did you mean 'seed_everything'?",
        ),
        (
            "set: {model.teacher.checkpoint: '${shared.t.checkpoint}'}\n"
            "shared: {t: {options: {model.teacher.checkpoint: '${shared.t.checkpoint}'}}}",
            "the shared run 't' depends on itself",
        ),
        (
            "set: {model.teacher.checkpoint: '${shared.t.checkpoint}'}\nshared: {t: {options: {model.techer: null}}}",
            "shared run t: --model.techer",
        ),
        ("set: {trainer.devices: 2}", "--trainer.devices 2: a sweep gives each run one device"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    code, study = sweep(text)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    assert code == 2
    assert len(told) == 1
    assert complaint in told[0]
    assert not study.path.parent.exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--worker", "2"], "--worker: no such option; did you mean 'workers'?"),
        (["--workers", "0"], "--workers 0: must be a whole number of at least 1"),
        (["--workers"], "--workers needs a value"),
        (["--model.student.alpha", "0.1"], "--model.student.alpha: is swept by the sweep file"),
        (["--seed_everything=3"], "--seed_everything: is swept by the sweep file"),
        (["--config", "nothing.yaml"], "--config nothing.yaml: no such file"),
        (["--name", "../x"], "--name: the study's name is '../x': give a relative name without '..'"),
        (["--trainer.max_epoch=3"], "did you mean 'trainer.max_epochs'?"),
        (["--storage", "sqlite:////no/such/folder/x.db"], "--storage: is gone; docs/sweeps.md"),
        (["--slurm"], "--slurm: is gone; docs/sweeps.md"),
        (["--scheduler", "tcp://127.0.0.1:9"], "--scheduler tcp://127.0.0.1:9: no scheduler answers"),
        (["--scheduler", "127.0.0.1:9", "--workers=2"], "--workers: a cluster has its own workers"),
        (["--trainer.default_root_dir=base.yaml"], "base.yaml is a file"),
    ],
)
def test_a_wrong_word_is_one_line_and_nothing_is_written(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    code, study = sweep("grid: {model.student.alpha: [0, 1]}\nseeds: 2", *options)
    assert code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not study.path.parent.exists()


@pytest.mark.parametrize(
    ("package", "text"),
    [("distributed", "seeds: 2"), ("optuna", SEARCH + "trials: 3\nmetric: val/loss\ndirection: minimize")],
)
def test_without_a_package_one_line_says_what_to_install(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, text: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, study = sweep(text)
    assert code == 2
    assert f"needs {package}: pip install 'dinopl[sweep]'" in capsys.readouterr().err
    assert not study.path.parent.exists()


def test_own_words_are_taken_out_of_those_of_the_runs() -> None:
    words = ["--sweep", "s.yaml", "--workers=3", "--model.lr", "-1", "--print_commands", "--retries", "0"]
    own, flags, arguments = separate([*words, "--config=a.yaml"])
    assert (own, flags) == ({"sweep": "s.yaml", "workers": "3", "retries": "0"}, {"print-commands"})
    assert arguments == Arguments("fit", ["a.yaml"], ["--model.lr", "-1"])


CONFIG: Config = {
    "seed_everything": 0,
    "name": "a",
    "threads": 1,
    "ckpt_path": None,
    "model": {"class_path": "mine.Net", "init_args": {"width": 4}},
    "data": {"class_path": "Data", "init_args": {"root": "here", "num_workers": 0, "batch_size": 8}},
    "trainer": {"default_root_dir": "runs", "max_epochs": 3, "enable_progress_bar": None},
}


def edited(**places: Any) -> Config:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    for place, value in places.items():
        *path, last = place.split("__")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    return config


def test_a_run_is_what_makes_a_difference_to_it() -> None:
    same = [
        edited(name="b"),
        edited(threads=8),
        edited(trainer__default_root_dir="elsewhere"),
        edited(trainer__enable_progress_bar=False),
        edited(data__init_args__root="/data", data__init_args__num_workers=4),
    ]
    other = [
        edited(seed_everything=1),
        edited(ckpt_path="a.ckpt"),
        edited(model__init_args__width=5),
        edited(model__class_path="yours.Net"),
        edited(trainer__max_epochs=4),
        edited(data__init_args__batch_size=16),
    ]
    assert {content_id(config) for config in same} == {content_id(CONFIG)}
    assert len({content_id(config) for config in [CONFIG, *other]}) == len(other) + 1
    ids = [content_id(edited(seed_everything=seed)) for seed in range(300)]
    assert len(set(ids)) == 300
    assert all(isinstance(yaml.safe_load(each), str) and re.fullmatch("[a-f][0-9a-f]{11}", each) for each in ids)
    before, now = edited(seed_everything=1), edited(trainer__max_epochs=4, model__init_args__width=5, name="c")
    assert changed(before, now, {"seed_everything", "model.init_args.width"}) == {"trainer.max_epochs": (3, 4)}


def plan(tmp_path: Path, text: str, *options: str, known: Mapping[str, Config] | None = None) -> dict[str, Job]:
    """Runs of a sweep file over a parser that takes everything: each option becomes a top-level key."""
    for name in ("base", "teacher"):
        (tmp_path / f"{name}.yaml").write_text(f"who: {name}")
    file = read_sweep(yaml.safe_load(text), "s")

    def compose(words: list[str]) -> Config:
        assert known is None
        arguments = Arguments.parse("fit", words)
        found = {".".join(option): yaml.safe_load(value) for option, value in arguments.pairs()}
        return found | {"files": arguments.files}

    given = {".".join(path): yaml.safe_load(value) for path, value in Arguments("fit", [], list(options)).pairs()}
    planner = Planner(file, [str(tmp_path / "base.yaml")], options, given, compose, read_config, known)
    return planner.jobs(expand(file))


def of(kind: str, jobs: Mapping[str, Job]) -> dict[str, Job]:
    return {run: job for run, job in jobs.items() if job.kind == kind}


SHARED = """
seeds: [0, 1]
set: {epochs: 3}
grid:
  fraction: [0.1, 1.0]
  teacher: ["${shared.teacher.checkpoint}"]
shared:
  teacher:
    config: TEACHER
    options: {seed: "${seed_everything}", epochs: 9, data: ["${shared.data.folder}", x]}
  data: {options: {kind: noise}}
"""


def test_runs_that_others_depend_on_are_found_by_content(tmp_path: Path) -> None:
    text = SHARED.replace("TEACHER", str(tmp_path / "teacher.yaml"))
    jobs = plan(tmp_path, text, "--epochs", "5", "--accelerator=cpu")
    trials, shared = of("trials", jobs), of("shared", jobs)
    assert len(trials) == 4
    teachers = {run: job for run, job in shared.items() if job.variant == "teacher"}
    (data,) = [job for job in shared.values() if job.variant == "data"]
    assert sorted(job.config["seed"] for job in teachers.values()) == [0, 1]
    for run, teacher in teachers.items():
        assert teacher.config["files"] == [str(tmp_path / "teacher.yaml")]
        assert teacher.config["epochs"] == 9  # its own option stands against the one given beside
        assert teacher.config["accelerator"] == "cpu"
        assert teacher.config["data"] == [f"${{shared.{data.id}.folder}}", "x"]
        assert teacher.needs == (data.id,)
        users = [job for job in trials.values() if job.needs == (run,)]
        assert {job.options["fraction"] for job in users} == {0.1, 1.0}
        assert {job.options["seed_everything"] for job in users} == {teacher.config["seed"]}
        assert {job.config["teacher"] for job in users} == {f"${{shared.{run}.checkpoint}}"}
        assert all(job.options["teacher"] == "${shared.teacher.checkpoint}" for job in users)
    assert all(job.config["epochs"] == 5 for job in trials.values())  # beside beats `set`
    order = list(jobs)
    assert len(order) == 7
    assert all(order.index(need) < order.index(job.id) for job in jobs.values() for need in job.needs)
    known = {job.key: job.config for job in jobs.values()}
    assert plan(tmp_path, text, "--epochs", "5", "--accelerator=cpu", known=known) == jobs  # nothing is parsed again
    with pytest.raises(AssertionError):
        plan(tmp_path, text, "--epochs", "6", "--accelerator=cpu", known=known)


def test_a_point_that_others_depend_on_is_one_run(tmp_path: Path) -> None:
    text = """
    variants:
      second: {start: "${shared.first.checkpoint}"}
      first: {}
    shared: {first: {options: {}}}
    """
    jobs = plan(tmp_path, text)
    assert not of("shared", jobs)
    assert [job.variant for job in jobs.values()] == ["first", "second"]


def test_a_checkpoint_to_resume_from_is_not_looked_into_before_it_is_there(tmp_path: Path) -> None:
    jobs = plan(tmp_path, "set: {ckpt_path: '${shared.first.checkpoint}', epochs: 4}\nshared: {first: {}}")
    (job,) = of("trials", jobs).values()
    assert job.config["ckpt_path"] == f"${{shared.{job.needs[0]}.checkpoint}}"
    assert f"--ckpt_path=${{shared.{job.needs[0]}.checkpoint}}" in job.words
    assert job.key
    (job,) = plan(tmp_path, "set: {ckpt_path: a.ckpt}").values()
    assert not job.key  # what a checkpoint brings along may change


def test_equal_points_are_one_run(tmp_path: Path) -> None:
    jobs = plan(tmp_path, "variants: {a: {lr: 1}, b: {lr: 1}, c: {lr: 2}}")
    assert [job.variant for job in jobs.values()] == ["a", "c"]


def test_a_point_is_parsed_once_for_all_seeds() -> None:
    from dinopl.cli.resolve import compose

    parsed = []

    def counted(words: list[str]) -> Config:
        parsed.append(words)
        return compose(words)

    text = "seeds: [0, 1, 2]\ngrid: {model.student.alpha: [0.0, 1.0]}\nset: {model.student: InterpolatedStart}"
    file = read_sweep(yaml.safe_load(text), "s")
    jobs = Planner(file, ["random_teacher"], [], {}, counted, read_config).jobs(expand(file))
    assert (len(jobs), len(parsed)) == (6, 2)
    for job in jobs.values():
        assert job.config == compose(list(job.words))


def test_workers_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Config = {"trainer": {"accelerator": "auto", "devices": 1, "num_nodes": 1}}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in places(None, config)] == ["4", "6"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in places(3, config)] == ["4", "6", "4"]
    assert len(places(None, {"trainer": {"accelerator": "cpu"}})) == 1
    for trainer in ({"devices": -1}, {"devices": [0, 1]}, {"devices": "2"}, {"num_nodes": 2}):
        with pytest.raises(UserMistake, match=r"--trainer\.(devices|num_nodes)"):
            refuse_several_devices({"trainer": trainer})
