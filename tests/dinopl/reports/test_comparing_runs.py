"""Two runs side by side."""

from dinopl.reports import Run, compare, comparison_text
from tests.dinopl.reports.run_trees import alpha_config, write_run


def test_what_differs(tmp_path):
    a = write_run(tmp_path, {"test/loss": 2.0, "m": None, "same": 1.0}, 0, config=alpha_config(0.5), duration_s=10.0)
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    other = alpha_config(1)
    other["model"]["init_args"]["optimizer"] = sgd
    b = write_run(
        tmp_path, {"test/loss": 1.5, "new": 3.0, "same": 1.0}, 1, "interrupted", config=other, duration_s=20.0
    )
    found = compare(Run.load(a), Run.load(b))

    def differing(kind):
        rows = found[(found["kind"] == kind) & ~found["equal"].astype(bool)]
        return list(rows[["name", "A", "B"]].itertuples(index=False, name=None))

    assert differing("option") == [
        ("seed_everything", 0, 1),
        ("model.student.alpha", 0.5, 1),
        ("model.optimizer", "AdamW", "SGD"),
        ("model.optimizer.momentum", None, 0.9),
    ]
    assert differing("metric") == [("test/loss", 2.0, 1.5), ("new", None, 3.0)]
    assert differing("run") == [("status", "finished", "interrupted"), ("duration_s", 10.0, 20.0)]
    assert [found[found["kind"] == kind]["equal"].sum() for kind in ("option", "metric")] == [3, 2]
    lines = comparison_text(found).splitlines()
    assert ["test/loss", "2", "1.5", "-0.5"] in [line.split() for line in lines]
    assert ["new", "-", "3", "-"] in [line.split() for line in lines]
    assert "(3 other options equal)" in lines


def test_equal_runs(tmp_path):
    run = Run.load(write_run(tmp_path, {"test/loss": 2.0}))
    assert comparison_text(compare(run, run)) == "(1 option equal)\n\n(1 metric equal)"
