"""Which runs a folder has, which belong to one trial, and which of those counts."""

import pytest

from dinopl.reports import read_study, runs
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
    found = runs(study)
    assert found["model.student.alpha"].tolist() == [0, 0, 1, 1]
    assert found["seed_everything"].tolist() == [0, 1, 0, 1]
    assert set(found["variant"]) == {"paper"}
    assert found["test/loss"].tolist() == [0, 0.1, 1, 1.1]
    (said,) = found.attrs["studies"]
    assert said["axes"] == {"model.student.alpha": [1, 0]}
    assert (said["name"], said["x"]) == ("locality", "model.student.alpha")
    assert set(found["status"]) == {"finished"}
    # what the trial set, and everything else of the run
    assert found.attrs["swept"] == ["model.student.alpha", "seed_everything"]
    assert set(found["model.optimizer.lr"]) == {0.1}


@pytest.mark.parametrize("part", ["..", "trials", "trials/01", "."])
def test_parts_of_a_study_and_folders_above_it(study, part):
    found = runs(study / part)
    assert len(found) == (1 if part == "trials/01" else 4)
    assert len(found.attrs["studies"]) == (part in ("..", "."))
    assert found.attrs["swept"]


def test_a_partial_study(study):
    write_trial(study, "20", {"model.student.alpha": 2, "seed_everything": 0})
    running = write_trial(study, "21", {"model.student.alpha": 2, "seed_everything": 1})
    write_run(running, status="unfinished", seed=1)
    found = runs(study)
    assert found["status"].tolist() == ["finished"] * 4 + ["waiting", "unfinished"]
    assert found["seed_everything"].tolist()[-2:] == [0, 1]
    assert found["run"].tolist()[-2] == str(study / "trials" / "20")


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
    (run,) = runs(tmp_path).itertuples()
    assert run.started.startswith(counts)
    assert run.earlier_attempts == len(attempts) - 1


def test_a_killed_run_is_older_or_newer_by_its_folders_name(tmp_path):
    killed = write_run(tmp_path, status="unfinished")
    assert runs(tmp_path)["status"].item() == "unfinished"
    done = write_run(tmp_path, {"test/loss": 1.0})
    (run,) = runs(tmp_path).itertuples()
    assert (run.run, run.earlier_attempts) == (str(done), 1)
    assert runs(killed)["run"].item() == str(killed)


def test_plain_runs_are_alike_but_for_bookkeeping(tmp_path):
    def run(seed=0, name="a", **config):
        write_run(tmp_path / name, {"test/loss": 1.0}, seed, config={**alpha_config(0.5), "name": name, **config})

    run()
    run(name="b", threads=4, trainer={"default_root_dir": "elsewhere", "logger": {"class_path": "CSVLogger"}})
    run(seed=1)
    run(trainer={"max_epochs": 3})
    found = runs(tmp_path)
    assert sorted(zip(found["seed_everything"], found["earlier_attempts"], strict=True)) == [(0, 0), (0, 1), (1, 0)]
    assert len(runs(tmp_path, keep=["name"])) == 4


def test_evaluations_are_left_out_beside_trainings(tmp_path):
    for checkpoint in ("a.ckpt", "b.ckpt"):
        write_run(tmp_path / "tests", {"test/loss": 1.0}, command="test", resumed_from=checkpoint)
    alone = runs(tmp_path)
    assert (len(alone), alone.attrs["evaluations"]) == (2, 0)
    write_run(tmp_path, {"test/loss": 1.0}, command="fit")
    beside = runs(tmp_path)
    assert (beside["command"].tolist(), beside.attrs["evaluations"]) == (["fit"], 2)


def test_a_later_test_of_a_trial_is_no_attempt_at_it(study):
    trial = study / "trials" / "00"
    write_run(trial, {"test/loss": 7.0}, command="test", resumed_from="last.ckpt")
    first = runs(study).iloc[0]
    assert (first["command"], first["test/loss"], first["earlier_attempts"]) == ("fit", 0.0, 0)


def test_runs_without_configuration_stand_for_themselves(tmp_path):
    for _ in range(2):
        folder = write_run(tmp_path, {"test/loss": 1.0}, seed=None)
        (folder / "config.yaml").unlink()
        (folder / "results.json").write_text('{"status": "finished", "metrics": {"test/loss": 1.0}}')
    assert len(runs(tmp_path)) == 2


def test_a_folder_given_twice_counts_once(study):
    assert len(runs([study, study / "trials" / "00", study])) == 4


def test_folders_of_configurations_are_no_runs(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text("seed_everything: 0\n")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no runs in|no folder") as caught:
            runs(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
@pytest.mark.parametrize("file", ["study.json", "trials/00/trial.json"])
def test_damaged_files_are_named_in_one_line(study, text, file):
    (study / file).write_text(text)
    with pytest.raises(ValueError, match=file.rsplit("/")[-1]) as caught:
        runs(study)
    assert "\n" not in str(caught.value)


def test_a_study_says_little(tmp_path):
    said = read_study(write_study(tmp_path / "bare") / "study.json")
    assert {name: value for name, value in said.items() if value} == {"name": "bare"}
    assert [name for name, value in said.items() if value is None] == ["metric", "direction", "x"]


def test_columns_are_numbers_where_all_runs_have_one(tmp_path):
    """What a notebook sorts, groups and draws; elsewhere values stay what they are in the configuration."""
    for seed, (alpha, betas) in enumerate([(0, [0.9, 0.95]), (0.5, [0.9, 0.95]), (1, None)]):
        config = {"model": {"student": {"alpha": alpha}, "optimizer": {"betas": betas, "fused": bool(seed)}}}
        write_run(tmp_path, {"test/loss": alpha, "late": None}, seed, config=config, family="SomeFamily")
    write_run(tmp_path, {"status": 7.0, "epoch": 3.0}, 3, "failed", config={"model": {"student": {"alpha": 2}}})
    found = runs(tmp_path)
    assert found["model.student.alpha"].dtype == float
    assert found["seed_everything"].dtype == int
    assert found["model.optimizer.betas"].tolist() == [(0.9, 0.95), (0.9, 0.95), None, None]
    assert found["model.optimizer.fused"].tolist() == [False, True, True, None]
    assert found["family"].tolist() == ["SomeFamily"] * 3 + [None]
    assert found["status"].tolist() == ["finished"] * 3 + ["failed"]
    assert found["metrics/status"].tolist()[3] == 7.0  # of a name that is taken
    assert found["late"].isna().all()
    assert found.attrs["metrics"] == ["test/loss", "late", "metrics/status"]
    assert found.attrs["measured"] == ["test/loss", "late"]
    means = found[found["status"] == "finished"].groupby("model.student.alpha")["test/loss"].mean()
    assert means.to_dict() == {0: 0, 0.5: 0.5, 1: 1}
