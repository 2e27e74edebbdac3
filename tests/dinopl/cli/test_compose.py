"""The composition of a configuration out of files, options and a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.cli.config import Arguments, differences, drop_replaced, explicit_paths, merge, read_config
from dinopl.core.errors import UserMistake
from dinopl.core.moved import flatten

ADAMW: dict[str, Any] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.3}}

plain = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abcd"), plain, max_size=3)


def test_files_are_told_from_options_wherever_they_stand() -> None:
    arguments = Arguments.parse("fit", ["--a.b", "1", "--config", "x.yaml", "--c=2", "-c", "y.yaml", "--config=z.yaml"])
    assert arguments.files == ["x.yaml", "y.yaml", "z.yaml"]
    assert arguments.options == ["--a.b", "1", "--c=2"]
    assert list(arguments.pairs()) == [(["a", "b"], "1"), (["c"], "2")]


def test_flags_and_appended_items_replace_nothing() -> None:
    arguments = Arguments.parse("fit", ["--flag", "--list+", "Item", "--lr", "-1"])
    assert list(arguments.pairs()) == [(["lr"], "-1")]


@pytest.mark.parametrize("tokens", [["--config"], ["--config="]])
def test_a_config_without_a_file_is_a_mistake(tokens: list[str]) -> None:
    with pytest.raises(UserMistake, match="--config needs"):
        Arguments.parse("fit", tokens)


@given(mappings, mappings)
@settings(max_examples=50, deadline=None)
def test_the_later_layer_wins_and_nothing_else_is_lost(base: dict[str, Any], later: dict[str, Any]) -> None:
    merged = merge(base, later)
    assert merge(merged, later) == merged
    kept = dict(flatten(merged))
    for path, value in flatten(later):
        if path and value != {}:
            assert kept[path] == value


@given(mappings)
@settings(max_examples=50, deadline=None)
def test_an_empty_layer_changes_nothing(layer: dict[str, Any]) -> None:
    assert merge(layer, {}) == merge({}, layer) == merge(layer, layer) == layer


def test_a_named_class_takes_its_arguments_with_it() -> None:
    assert merge({"optimizer": ADAMW}, {"optimizer": "SGD"}) == {"optimizer": "SGD"}
    assert merge({"optimizer": ADAMW}, {"optimizer": {"class_path": "SGD"}}) == {"optimizer": {"class_path": "SGD"}}


def test_the_same_class_keeps_its_arguments_under_its_short_name_too() -> None:
    merged = merge({"optimizer": ADAMW}, {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 1.0}}})
    assert merged["optimizer"]["init_args"] == {"lr": 1.0, "weight_decay": 0.3}
    assert merge({"optimizer": ADAMW}, {"optimizer": "AdamW"}) == {"optimizer": ADAMW}
    shorthand = merge({"model": "SelfDistillation"}, {"model": {"init_args": {"x": 1}}})
    assert shorthand == {"model": {"class_path": "SelfDistillation", "init_args": {"x": 1}}}


@pytest.mark.parametrize(
    "options",
    [
        ["--model.optimizer", "SGD"],
        ["--model.optimizer=SGD"],
        ["--model.init_args.optimizer", "SGD"],
        ["--model.optimizer.class_path", "torch.optim.SGD"],
        ["--model.optimizer", '{"class_path": "SGD"}'],
    ],
)
def test_an_option_that_swaps_a_class_drops_the_old_arguments(options: list[str]) -> None:
    config = {"model": {"class_path": "SelfDistillation", "init_args": {"optimizer": dict(ADAMW)}}}
    dropped = drop_replaced(config, Arguments.parse("fit", options))
    assert "init_args" not in dropped["model"]["init_args"]["optimizer"]


def test_an_option_that_names_the_same_class_drops_nothing() -> None:
    config = {"model": {"class_path": "SelfDistillation", "init_args": {"optimizer": dict(ADAMW)}}}
    arguments = Arguments.parse("fit", ["--model.optimizer", "AdamW", "--model.optimizer.lr", "1"])
    assert drop_replaced(config, arguments)["model"]["init_args"]["optimizer"] == ADAMW


def test_explicit_paths_hold_files_options_and_all_above_them() -> None:
    arguments = Arguments.parse("fit", ["--model.init_args.optimizer.momentum", "0.9"])
    paths = explicit_paths({"model": {"init_args": {"optimizer": ADAMW}}}, arguments)
    assert ("model", "optimizer", "momentum") in paths
    assert ("model", "optimizer", "lr") in paths
    assert ("model", "optimizer") in paths
    assert ("model", "optimizer", "eps") not in paths


def test_differences_name_the_option_and_both_values() -> None:
    checkpoint = {"model": {"init_args": {"alpha": 0.5, "beta": 1}}, "seed_everything": 3}
    used = {"model": {"init_args": {"alpha": 0.1, "beta": 1}}, "seed_everything": 3, "trainer": {"devices": 2}}
    assert differences(checkpoint, used) == [("model.alpha", 0.5, 0.1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such file"),
        ("", "holds nothing"),
        ("- 1\n- 2", "holds a list"),
        ("a: [1", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: {x: 1}\nb: 2\na: {y: 1}", "config.yaml: key 'a' twice, in lines 1 and 3; join the two."),
        ("a:\n  b: [{c: 1, d: 2, c: 3}]", "key 'c' twice, in lines 2 and 2"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str | None, expected: str) -> None:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserMistake, match=expected) as caught:
        read_config(str(file))
    assert "\n" not in str(caught.value)


def test_a_good_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"model": {"init_args": {"optimizer": ADAMW}}}))
    assert read_config(str(file)) == {"model": {"init_args": {"optimizer": ADAMW}}}


def test_a_key_given_twice_within_an_option_is_a_mistake() -> None:
    with pytest.raises(UserMistake, match=r"^--model\.optimizer: key 'lr' twice"):
        drop_replaced({}, Arguments.parse("fit", ["--model.optimizer={lr: 1, lr: 2}"]))


def test_an_anchor_may_be_merged_and_overridden(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\n")
    assert read_config(str(file))["d"] == {"b": 3, "c": 2}
