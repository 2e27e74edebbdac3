"""``dinopl doctor``: on this installation, and on ones that are broken."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from dinopl.cli import main
from dinopl.cli.tools import doctor
from tests.dinopl.cli.test_mistakes import said


def test_this_installation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Once through the whole, as JSON; and the text has the same."""
    (tmp_path / "cifar5m").mkdir()
    assert main(["doctor", "--json", "--root", str(tmp_path), "--runs", str(tmp_path / "new" / "runs")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == []
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["python"].split(".") == [str(part) for part in sys.version_info[:3]]
    assert facts["torchvision"]["imports"] is True
    assert facts["machine"]["cores"] == os.cpu_count()
    assert len(facts["machine"]["cuda"]) == torch.cuda.device_count()
    assert facts["threads"]["torch"] >= 1
    assert facts["data"]["root"] == str(tmp_path)
    found = facts["data"]["found"]
    assert {name for name, there in found.items() if there} == {"DigitsImages (embedded)", "CIFAR5mImages"}
    assert {"CIFAR10Images", "MNISTImages", "TinyImageNetImages", "CatBAbI"} <= set(found)
    assert not (tmp_path / "new").exists()
    text = doctor.as_text(facts)
    assert f"\n  torch         {torch.__version__}\n" in text
    assert text.endswith("problems\n  none\n")


@pytest.mark.parametrize(
    ("script", "torch_found", "told"),
    [
        # the interpreter dies at the second check: what came before is kept
        (
            'echo \'{"check": "torch", "found": {"threads": 3}}\'; kill -SEGV $$',
            3,
            ["torchvision: the check ended with -11", "command: the check ended", "data: ", "runs: "],
        ),
        ("echo words; exit 1", None, ["torch: the check ended with 1", "torchvision", "command", "data", "runs"]),
        (
            'echo \'{"check": "torch", "error": "ImportError: libcudart"}\'\n'
            'echo \'{"check": "runs", "found": "full"}\'',
            None,
            ["torch: ImportError: libcudart", "torchvision: the check ended", "command", "data", "full"],
        ),
    ],
)
def test_installations_that_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, torch_found: int | None, told: list[str]
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(python))
    facts = doctor.examine(tmp_path, tmp_path)
    assert facts["threads"]["torch"] == torch_found
    assert len(facts["problems"]) == len(told)
    assert all(problem.startswith(start) for problem, start in zip(facts["problems"], told, strict=True))
    assert told[0] in doctor.as_text(facts)
    assert facts["torchvision"]["imports"] is False


def test_a_check_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(python))
    monkeypatch.setattr(doctor, "SECONDS", 0.2)
    assert doctor.run_checks(tmp_path, tmp_path)["torch"] == {"error": "the check took more than 0.2 seconds"}


def test_checks_go_on_after_one_that_failed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dinopl.cli.runs  # noqa: F401  (a half-made import would stay behind)

    monkeypatch.setitem(sys.modules, "torchvision", None)
    runs = tmp_path / "runs"
    runs.write_text("a file")
    doctor.print_checks(tmp_path, runs)
    lines = {line.pop("check"): line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(lines) == list(doctor.CHECKS)
    assert lines["torchvision"]["error"].startswith("ModuleNotFoundError: import of torchvision halted")
    assert "is a file" in lines["runs"]["found"]


def test_torchvision_is_made_for_some_torch() -> None:
    wanted = doctor.torch_wanted(doctor.requires_of("torchvision"))
    assert wanted
    assert doctor.mismatch(torch.__version__, torchvision.__version__, wanted) is None
    assert doctor.torch_wanted(["numpy", "torch==2.11.0", "pillow"]) == "==2.11.0"
    assert doctor.torch_wanted(["torch (>=2.14.0)", "torchdata==1.0"]) == ">=2.14.0"
    assert doctor.torch_wanted(["torchdata==1.0"]) == doctor.torch_wanted([]) == ""
    for version, specifier in (("2.11.0+cpu", "==2.11.0"), ("2.15.0+cu132", ">=2.14.0"), ("2.11.0", ""), (None, "==2")):
        assert doctor.mismatch(version, "0.26.0", specifier) is None
    for specifier in ("==2.11.0", ">=2.14.0"):
        told = doctor.mismatch("2.12.0+cu130", "0.26.0", specifier)
        assert told is not None
        assert f"torchvision 0.26.0 is made for torch {specifier}, and torch is 2.12.0+cu130" in told


def test_missing_extras() -> None:
    requirements = [
        "numpy>=1",
        'optuna>=4.2; extra == "sweep"',
        "no-such-thing; extra == 'sweep'",
        'nor_this ; extra == "dev"',
    ]
    assert doctor.missing_extras(requirements) == {"sweep": ["no-such-thing"], "dev": ["nor_this"]}
    assert doctor.requires_of("no-such-thing") == []


def test_words_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--jsn"]) == 2
    assert "unrecognized arguments: --jsn; usage is dinopl doctor" in said(capsys)
