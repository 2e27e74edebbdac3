"""Options by dotted name: how they are flattened, which vary, which follow from others."""

import pandas as pd
import pytest

from dinopl.reports.options import canonical, flatten_options, is_bookkeeping, shown, varying, without_implied


def test_a_configuration_as_the_command_line_has_it():
    config = {
        "seed_everything": 3,
        "model": {
            "class_path": "dinopl.SelfDistillation",
            "init_args": {
                "student": {"class_path": "dinopl.distillation.student_start.TeacherCopy"},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": "1e-3", "momentum": None}},
                "probes": [{"class_path": "KNNProbe", "init_args": {"k": 20}}, {"class_path": "LinearProbe"}],
                "betas": [0.9, 0.999],
                "head": {"class_path": "ProjectionHead", "init_args": None},
            },
        },
        "data": {"train_args": {}},
    }
    assert flatten_options(config) == {
        "seed_everything": 3,
        "model": "SelfDistillation",
        "model.student": "TeacherCopy",
        "model.optimizer": "SGD",
        "model.optimizer.lr": 0.001,
        "model.optimizer.momentum": None,
        "model.probes.0": "KNNProbe",
        "model.probes.0.k": 20,
        "model.probes.1": "LinearProbe",
        "model.betas": [0.9, 0.999],
        "model.head": "ProjectionHead",
        "data.train_args": {},
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model.init_args.optimizer.init_args.lr": 0.1}, {"model.optimizer.lr": 0.1}),
        ({"model.optimizer.class_path": "torch.optim.SGD"}, {"model.optimizer": "SGD"}),
        (
            {"model.student": {"class_path": "a.InterpolatedStart", "init_args": {"alpha": 1.0}}},
            {"model.student": "InterpolatedStart", "model.student.alpha": 1},
        ),
        ({"model.encoder": "my_encoders.TwoLayers"}, {"model.encoder": "my_encoders.TwoLayers"}),
        ({"trainer.precision": "bf16-mixed"}, {"trainer.precision": "bf16-mixed"}),
        ({"a": "nan", "b": "1e400", "c": True}, {"a": "nan", "b": "1e400", "c": True}),
    ],
)
def test_options_of_a_study(given, expected):
    found = flatten_options(given)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


def test_equal_values_are_equal():
    assert canonical({"b": [1], "a": 2}) == canonical({"a": 2, "b": [1]})
    assert canonical(True) != canonical(1)
    assert [shown(value) for value in (None, 1e-10, 0.5, 3, "adam", [16, 32], True)] == [
        *("-", "1e-10", "0.5", "3", "adam", "[16, 32]", "true")
    ]


def test_what_varies():
    runs = [
        {"model.lr": 0.1, "model.width": 3, "name": "a", "trainer.logger.save_dir": "x"},
        {"model.lr": 0.2, "model.width": 3, "name": "b", "model.alpha": 0.5},
    ]
    frame = pd.DataFrame(runs, dtype=object)
    assert varying(frame, frame.columns) == ["model.lr", "model.alpha"]
    assert is_bookkeeping("trainer.logger.save_dir")
    assert not is_bookkeeping("trainer.max_epochs")


@pytest.mark.parametrize(
    ("runs", "kept"),
    [
        # what has one value for each class says nothing more than the class
        ([{"o": "SGD", "o.lr": 1, "o.momentum": 0.9}, {"o": "Adam", "o.lr": 2}], ["o"]),
        ([{"o": "SGD", "o.lr": 1}, {"o": "SGD", "o.lr": 2}, {"o": "Adam", "o.lr": 2}], ["o", "o.lr"]),
        # another option is not implied, though it goes along with this one
        ([{"o": "SGD", "epochs": 1}, {"o": "Adam", "epochs": 2}], ["epochs", "o"]),
        ([{"variant": "a", "o": "SGD", "epochs": 1}, {"variant": "b", "o": "Adam", "epochs": 1}], ["variant"]),
    ],
)
def test_what_follows_from_a_class_or_a_variant(runs, kept):
    frame = pd.DataFrame(runs, dtype=object)
    assert sorted(without_implied(frame, varying(frame, frame.columns))) == sorted(kept)
