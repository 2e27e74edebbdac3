"""Groups of runs: what tells them apart, their order, their means over seeds, their differences."""

import statistics

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.reports import Group, differing, group, runs
from dinopl.reports.groups import baseline_of, mean_by_seed, paths_by_seed
from tests.dinopl.reports.run_trees import alpha_config, write_run, write_study, write_trial

METRIC = "test/loss"


def test_plain_runs_are_told_apart_by_what_varies(tmp_path):
    for alpha in (0.5, 0.1, 10):
        for seed in (0, 1):
            write_run(tmp_path, {METRIC: alpha + seed}, seed, config=alpha_config(alpha))
    found = runs(tmp_path)
    assert differing(found) == ["model.student.alpha"]
    groups = group(found)
    assert [dict(member.values) for member in groups] == [{"model.student.alpha": alpha} for alpha in (0.1, 0.5, 10)]
    assert [member.seeds for member in groups] == [2, 2, 2]
    summary = groups[0].summary(METRIC)
    assert (summary.n, summary.mean, summary.sd) == (2, pytest.approx(0.6), pytest.approx(statistics.stdev([0.1, 1.1])))


def test_another_class_is_one_difference(tmp_path):
    for name, arguments in (("AdamW", {"lr": 0.1, "betas": [0.9, 0.99]}), ("SGD", {"lr": 0.2, "momentum": 0.9})):
        optimizer = {"class_path": f"torch.optim.{name}", "init_args": arguments}
        write_run(tmp_path, {METRIC: 1.0}, config={"model": {"class_path": "M", "init_args": {"optimizer": optimizer}}})
    assert differing(runs(tmp_path)) == ["model.optimizer"]


def test_a_study_orders_its_variants_and_values(tmp_path):
    study = write_study(
        tmp_path, variants=["paper", "ablation"], axes={"model.head": ["Wide", "Narrow"], "o.lr": [2, 1]}
    )
    for position, (variant, head, lr) in enumerate(
        (variant, head, lr) for variant in ("ablation", "paper") for head in ("Narrow", "Wide") for lr in (2, 10, 1)
    ):
        options = {"model.head": {"class_path": head}, "o.lr": lr, "o": "Adam" if variant == "paper" else "SGD"}
        write_run(write_trial(study, f"t{position:02}", options, variant), {METRIC: 1.0})
    found = runs(study)
    assert differing(found) == ["variant", "model.head", "o.lr"]  # `o` follows from the variant
    order = [tuple(member.values.values()) for member in group(found)]
    assert order == [(v, h, lr) for v in ("paper", "ablation") for h in ("Wide", "Narrow") for lr in (1, 2, 10)]


def test_axes_are_kept_though_few_runs_are_done(tmp_path):
    study = write_study(tmp_path, variants=["a", "b"], axes={"o.lr": [1, 2]})
    for variant, lr in (("a", 1), ("b", 2)):
        write_run(write_trial(study, variant, {"o.lr": lr}, variant), {METRIC: 1.0})
    assert differing(runs(study)) == ["variant", "o.lr"]


def test_only_finished_runs_and_numbers_count(tmp_path):
    for seed, (status, value) in enumerate(
        [("finished", 1.0), ("finished", None), ("diverged", 99.0), ("failed", 98.0), ("finished", 3.0)]
    ):
        write_run(tmp_path, {METRIC: value}, seed, status)
    (member,) = group(runs(tmp_path))
    assert member.summary(METRIC)[:2] == (2, 2.0)
    assert member.seeds == 3
    assert member.runs["status"].value_counts().to_dict() == {"finished": 3, "diverged": 1, "failed": 1}
    assert member.summary("test/unheard_of").n == 0


def test_several_runs_of_a_seed_are_one_sample(tmp_path):
    """Grouped by fewer options than vary: n counts seeds, and seeds that lack a run are left out."""
    values = {(0, 0.1): 1.0, (0, 0.2): 3.0, (1, 0.1): 2.0, (1, 0.2): 6.0, (2, 0.1): 50.0}
    for (seed, alpha), value in values.items():
        write_run(tmp_path, {METRIC: value}, seed, config=alpha_config(alpha))
    (member,) = group(runs(tmp_path), by=[])
    assert member.within == ("model.student.alpha",)
    assert member.summary(METRIC)[:2] == (2, pytest.approx((2 + 4) / 2))
    assert member.seeds == 3


def test_a_path_that_goes_with_the_seed_tells_no_groups_apart(tmp_path):
    def run(seed, fraction, teacher):
        teacher = {"class_path": "kd.RunTeacher", "init_args": {"path": f"runs/{teacher}"}}
        data = {"class_path": "DataFraction", "init_args": {"fraction": fraction}}
        config = {"data": data, "model": {"class_path": "kd.KD", "init_args": {"teacher": teacher}}}
        write_run(tmp_path, {METRIC: fraction + seed}, seed, config=config)

    for seed in (0, 1, 2):
        for fraction in (0.1, 1):
            run(seed, fraction, f"teacher{seed}")
    found = runs(tmp_path)
    assert differing(found) == ["data.fraction"]
    assert paths_by_seed(found) == ["model.teacher.path"]
    assert [member.seeds for member in group(found)] == [3, 3]
    assert all(member.within == () for member in group(found))
    # two teachers under one seed are two groups
    run(0, 1, "other")
    assert differing(runs(tmp_path)) == ["data.fraction", "model.teacher.path"]


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), st.floats(-9, 9)))
def test_means_by_seed(samples):
    cells = {cell for _, cell in samples}
    complete = {seed for seed, _ in samples if all((seed, cell) in samples for cell in cells)}
    expected = {seed: statistics.fmean(samples[seed, cell] for cell in cells) for seed in complete}
    index = pd.MultiIndex.from_arrays([[key[level] for key in samples] for level in (0, 1)], names=["seed", "cell"])
    found = mean_by_seed(pd.Series(list(samples.values()), index, dtype=float))
    assert found.to_dict() == pytest.approx(expected)


def test_differences_are_paired_by_seed(tmp_path):
    """Seeds of one side only are left out, and so are those whose value is null."""
    values = {0.0: {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}, 1.0: {1: 2.5, 2: 3.1, 3: None, 4: 9.0}}
    for alpha, by_seed in values.items():
        for seed, value in by_seed.items():
            write_run(tmp_path, {METRIC: value}, seed, config=alpha_config(alpha))
    baseline, other = group(runs(tmp_path))
    difference = other.difference(baseline, METRIC)
    assert (difference.n, difference.mean) == (2, pytest.approx((0.5 + 0.1) / 2))
    assert difference.interval.method == "t"


def rows(*values):
    """Groups by options, without runs."""
    return [Group(value, pd.DataFrame()) for value in values]


@pytest.mark.parametrize(
    ("values", "baselines"),
    [
        # every fraction has a baseline of its own
        (
            [{"v": "kd", "f": 1}, {"v": "kd", "f": 2}, {"v": "label", "f": 1}, {"v": "label", "f": 2}],
            [2, 3, None, None],
        ),
        # and none where there is none
        ([{"v": "kd", "f": 1}, {"v": "kd", "f": 3}, {"v": "label", "f": 1}], [2, None, None]),
        # options that the baseline does not have are passed over
        ([{"v": "kd", "t": 1}, {"v": "kd", "t": 2}, {"v": "label", "t": None}], [2, 2, None]),
        # an exact one goes first; of several that fit as well none is chosen
        ([{"v": "kd", "t": 1}, {"v": "label", "t": None}, {"v": "label", "t": 1}], [2, None, None]),
        (
            [{"v": "kd", "t": 1, "f": 1}, {"v": "label", "t": None, "f": 1}, {"v": "label", "t": 1, "f": None}],
            [None] * 3,
        ),
    ],
)
def test_baselines(values, baselines):
    groups = rows(*values)
    found = [baseline_of(member, groups, "v", "label") for member in groups]
    assert found == [None if position is None else groups[position] for position in baselines]
