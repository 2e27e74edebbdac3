"""Front doors of packages: every public name is found, and nothing else."""

import importlib

import pytest

import dinopl
from dinopl.core.lazy import lazy_names


@pytest.mark.parametrize("name", ["dinopl", "fprnn", "kd"])
def test_every_public_name_is_found(name: str) -> None:
    package = importlib.import_module(name)
    assert set(package.__all__) - {"__version__"} == set(dir(package))
    for public in package.__all__:
        assert getattr(package, public) is not None


def test_a_name_is_the_one_of_its_home() -> None:
    from dinopl.core.types import ImageShape

    assert dinopl.ImageShape is ImageShape
    find, names = lazy_names("here", {"math": ["pi"]})
    assert (find("pi"), names()) == (importlib.import_module("math").pi, ["pi"])


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'dinopl' has no attribute 'nothing'"):
        dinopl.nothing  # noqa: B018
