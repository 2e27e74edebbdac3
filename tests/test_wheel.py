"""What a wheel holds: the three packages with their type markers, the command, the shipped configurations."""

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    return zipfile.ZipFile(built)


def test_every_module_is_in_the_wheel(wheel):
    sources = {str(p.relative_to(ROOT)) for name in ("dinopl", "fprnn", "kd") for p in (ROOT / name).rglob("*.py")}
    assert sources == {name for name in wheel.namelist() if name.endswith(".py")}
    assert {"dinopl/py.typed", "fprnn/py.typed", "kd/py.typed"} <= set(wheel.namelist())


def test_every_configuration_is_in_the_wheel_where_the_command_looks_for_it(wheel):
    shipped = {f"dinopl/configs/{p.relative_to(ROOT / 'configs')}" for p in (ROOT / "configs").rglob("*.yaml")}
    assert shipped == {name for name in wheel.namelist() if name.endswith(".yaml")}


def test_the_wheel_installs_the_command(wheel):
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "dinopl = dinopl.cli.main:main" in wheel.read(entry).decode()


def test_the_entries_of_cite_are_in_the_wheel(wheel):
    assert wheel.read("dinopl/cli/tools/citations.bib") == (ROOT / "dinopl/cli/tools/citations.bib").read_bytes()
