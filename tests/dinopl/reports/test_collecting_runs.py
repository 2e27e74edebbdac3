"""Which runs a folder has, which belong to one trial, and which of those counts."""

import pytest

from dinopl.reports import Study, collect
from tests.dinopl.reports.run_trees import alpha_config, write_run, write_study, write_trial

FIRST, SECOND, THIRD = (f"2026-03-01T0{hour}:00:00+00:00" for hour in (1, 2, 3))


@pytest.fixture
def study(tmp_path):
    study = write_study(tmp_path / "locality", axes={"model.student.init_args.alpha": [1, 0]}, x="model.student.alpha")
    for alpha in (0, 1):
        for seed in (0, 1):
            options = {"model.student.alpha": alpha, "seed_everything": seed}
            trial = write_trial(study, f"{alpha}{seed}", options, variant="paper")
            write_run(trial, {"test/loss": alpha + 0.1 * seed}, seed, config=alpha_config(alpha))
    write_run(study / "shared" / "teacher", {"test/loss": 9.0})
    return study


def test_a_study(study):
    found = collect(study)
    assert [trial.settings["model.student.alpha"] for trial in found.trials] == [0, 0, 1, 1]
    assert [trial.seed for trial in found.trials] == [0, 1, 0, 1]
    assert {trial.variant for trial in found.trials} == {"paper"}
    assert found.studies[0].axes == {"model.student.alpha": [1, 0]}
    assert (found.studies[0].name, found.studies[0].x) == ("locality", "model.student.alpha")
    assert found.count("finished") == 4
    # what the trial set, and everything else of the run
    assert found.trials[0].options == {"model.student.alpha": 0, "seed_everything": 0}
    assert found.trials[0].value("model.optimizer.lr") == 0.1
    assert found.trials[0].value("variant") == "paper"


@pytest.mark.parametrize("part", ["..", "trials", "trials/01", "."])
def test_parts_of_a_study_and_folders_above_it(study, part):
    found = collect(study / part)
    assert len(found.trials) == (1 if part == "trials/01" else 4)
    assert len(found.studies) == (part in ("..", "."))
    assert all(trial.planned for trial in found.trials)


def test_a_partial_study(study):
    write_trial(study, "20", {"model.student.alpha": 2, "seed_everything": 0})
    running = write_trial(study, "21", {"model.student.alpha": 2, "seed_everything": 1})
    write_run(running, status="unfinished", seed=1)
    found = collect(study)
    statuses = [trial.status for trial in found.trials]
    assert statuses == ["finished"] * 4 + ["waiting", "unfinished"]
    assert [trial.seed for trial in found.trials[-2:]] == [0, 1]
    assert found.trials[-2].path == study / "trials" / "20"


@pytest.mark.parametrize(
    ("attempts", "counts"),
    [
        ([("failed", FIRST), ("finished", SECOND)], SECOND),
        ([("finished", FIRST), ("failed", SECOND)], FIRST),
        ([("finished", SECOND), ("diverged", FIRST)], SECOND),
        ([("diverged", THIRD), ("finished", FIRST)], THIRD),
        ([("interrupted", FIRST), ("failed", THIRD), ("interrupted", SECOND)], THIRD),
        ([("failed", "2026-03-01T05:00:00+09:00"), ("interrupted", "2026-02-28T21:00:00+00:00")], "2026-02-28T21:"),
    ],
)
@pytest.mark.parametrize("planned", [True, False])
def test_the_latest_attempt_that_ended_counts(tmp_path, attempts, counts, planned):
    where = write_trial(tmp_path, "a", {}) if planned else tmp_path
    for status, started in attempts:
        write_run(where, status=status, started=started, config=alpha_config(0.5))
    (trial,) = collect(tmp_path).trials
    assert trial.run.started.startswith(counts)
    assert trial.earlier == len(attempts) - 1


def test_a_killed_run_is_older_or_newer_by_its_folders_name(tmp_path):
    killed = write_run(tmp_path, status="unfinished")
    assert collect(tmp_path).trials[0].run.status == "unfinished"
    done = write_run(tmp_path, {"test/loss": 1.0})
    (trial,) = collect(tmp_path).trials
    assert (trial.path, trial.earlier) == (done, 1)
    assert collect(killed).trials[0].path == killed


def test_plain_runs_are_alike_but_for_bookkeeping(tmp_path):
    def run(seed=0, name="a", **config):
        write_run(tmp_path / name, {"test/loss": 1.0}, seed, config={**alpha_config(0.5), "name": name, **config})

    run()
    run(name="b", threads=4, trainer={"default_root_dir": "elsewhere", "logger": {"class_path": "CSVLogger"}})
    run(seed=1)
    run(trainer={"max_epochs": 3})
    found = collect(tmp_path)
    assert sorted((trial.seed, trial.earlier) for trial in found.trials) == [(0, 0), (0, 1), (1, 0)]
    assert len(collect(tmp_path, keep=["name"]).trials) == 4


def test_evaluations_are_left_out_beside_trainings(tmp_path):
    for checkpoint in ("a.ckpt", "b.ckpt"):
        write_run(tmp_path / "tests", {"test/loss": 1.0}, command="test", resumed_from=checkpoint)
    alone = collect(tmp_path)
    assert (len(alone.trials), alone.evaluations) == (2, 0)
    write_run(tmp_path, {"test/loss": 1.0}, command="fit")
    beside = collect(tmp_path)
    assert ([trial.run.command for trial in beside.trials], beside.evaluations) == (["fit"], 2)


def test_a_later_test_of_a_trial_is_no_attempt_at_it(study):
    trial = study / "trials" / "00"
    write_run(trial, {"test/loss": 7.0}, command="test", resumed_from="last.ckpt")
    first = collect(study).trials[0]
    assert (first.run.command, first.run.metrics, first.earlier) == ("fit", {"test/loss": 0.0}, 0)


def test_runs_without_configuration_stand_for_themselves(tmp_path):
    for _ in range(2):
        folder = write_run(tmp_path, {"test/loss": 1.0}, seed=None)
        (folder / "config.yaml").unlink()
        (folder / "results.json").write_text('{"status": "finished", "metrics": {"test/loss": 1.0}}')
    assert len(collect(tmp_path).trials) == 2


def test_a_folder_given_twice_counts_once(study):
    assert len(collect([study, study / "trials" / "00", study]).trials) == 4


def test_folders_of_configurations_are_no_runs(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text("seed_everything: 0\n")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no runs in|no folder") as caught:
            collect(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
@pytest.mark.parametrize("file", ["study.json", "trials/00/trial.json"])
def test_damaged_files_are_named_in_one_line(study, text, file):
    (study / file).write_text(text)
    with pytest.raises(ValueError, match=file.rsplit("/")[-1]) as caught:
        collect(study)
    assert "\n" not in str(caught.value)


def test_a_study_says_little(tmp_path):
    assert Study.read(write_study(tmp_path / "bare") / "study.json") == Study("bare")
