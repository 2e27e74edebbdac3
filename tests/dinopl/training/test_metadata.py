import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.core.files import replacing
from dinopl.training.files import finite, plain

leaves = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.floats() | st.text(st.characters(codec="ascii"))
nested = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3)
)


@settings(max_examples=40, deadline=None)
@given(nested)
def test_finite_values_survive_strict_json(value: Any) -> None:
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == finite(value)


@settings(max_examples=40, deadline=None)
@given(nested)
def test_plain_keeps_plain_values_and_yaml_holds_them(value: Any) -> None:
    assert repr(plain(value)) == repr(value)
    assert repr(yaml.safe_load(yaml.safe_dump(plain(value), sort_keys=False))) == repr(value)


def test_plain_turns_tuples_and_derived_strings_into_what_they_stand_for() -> None:
    class Name(str):
        __slots__ = ()

    assert plain({Name("a"): (1, Name("b"))}) == {"a": [1, "b"]}
    assert type(plain(Name("b"))) is str
    with pytest.raises(ValueError, match=r"config\.a: is a PosixPath"):
        plain({"a": Path("/")})


def test_finite_drops_nothing_but_the_values() -> None:
    assert finite({"a": [math.nan, 1.5], "b": -math.inf, "c": 2}) == {"a": [None, 1.5], "b": None, "c": 2}


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
