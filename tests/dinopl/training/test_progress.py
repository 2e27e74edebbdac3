import re
import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar
from tiny import Tiny, loader, make_trainer

from dinopl.training import RunFolder, RunProgress


def test_away_from_a_terminal_it_prints_a_line_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, RunFolder(), RunProgress(), enable_progress_bar=True, num_sanity_val_steps=1)
    trainer.fit(Tiny(), loader(), loader())
    trainer.test(trainer.lightning_module, loader(), verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(
        re.fullmatch(rf"epoch {n}/2  done  train/loss \S+  left 0:00:\d\d", line) for n, line in enumerate(lines, 1)
    )


def test_the_time_left_follows_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances ten seconds a step: after 3 of 6 steps 30 seconds are left."""
    progress = RunProgress(plain=True)
    trainer = make_trainer(tmp_path, progress, enable_progress_bar=True)
    monkeypatch.setattr("dinopl.training.progress.time.monotonic", lambda: 10.0 * trainer.global_step)
    seen: list[float | None] = []
    monkeypatch.setattr(progress, "_print_line", lambda *_: seen.append(progress.seconds_left(trainer)))
    trainer.fit(Tiny(), loader(), loader())
    assert seen[-2:] == [30.0, 0.0]


def test_long_epochs_print_in_between(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinopl.training.progress.PLAIN_SECONDS", 0.0)
    make_trainer(tmp_path, RunProgress(plain=True), enable_progress_bar=True, max_epochs=1).fit(
        Tiny(), loader(), loader()
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 1/3", "step 2/3", "step 3/3", "done"]


def test_the_bar_shows_metrics_without_a_version_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, RunProgress(0.0, plain=False), enable_progress_bar=True, logger=True)
    trainer.fit(Tiny(), loader(), loader())
    shown = capsys.readouterr().out
    assert "train/loss=" in shown
    assert "100%" in shown
    assert "v_num" not in shown


def test_drawing_follows_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    original = TQDMProgressBar.on_train_batch_end

    def count(self: TQDMProgressBar, *args: object) -> None:
        drawn.append(args[-1])  # type: ignore[arg-type]
        original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TQDMProgressBar, "on_train_batch_end", count)
    make_trainer(tmp_path, RunProgress(1000.0, plain=False), enable_progress_bar=True).fit(Tiny(), loader(), loader())
    assert drawn == [2, 2]  # the end of each epoch


def test_evaluation_bars_end_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, RunProgress(1000.0, plain=False), enable_progress_bar=True)
    trainer.validate(Tiny(), loader(), verbose=False)
    trainer.test(Tiny(), loader(), verbose=False)
    trainer.predict(Tiny(), loader(), return_predictions=False)
    bars = [bar.rsplit("\r", 1)[-1] for bar in capsys.readouterr().out.strip("\n").split("\n")]
    assert [bar.split()[0] for bar in bars] == ["Validation", "Testing", "Predicting"]
    assert all("100%" in bar and " 3/3 " in bar for bar in bars)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunProgress().plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert not RunProgress().plain
    assert RunProgress(plain=True).plain


def test_negative_seconds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seconds=-1\.0: must be at least 0"):
        RunProgress(-1.0)
