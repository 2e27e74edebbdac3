"""The queue: each run once, whoever takes it; what is left behind is taken up; what ended is not run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dinopl.core.errors import UserMistake
from dinopl.sweep.folder import StudyFolder
from dinopl.sweep.locks import HOLDER, STALE_SECONDS, Hold, exclusive, holder, is_held
from dinopl.sweep.plan import Job
from dinopl.sweep.queue import Outcome, Queue, State
from dinopl.sweep.storage import mend, open_storage

NOW = time.time()


def always(needs: object) -> bool:
    return True


def job(run: str, needs: tuple[str, ...] = ()) -> Job:
    return Job(run, "trials", None, {"model.lr": 0.1}, {"seed_everything": 0}, needs, ())


def open_queue(folder: StudyFolder, url: str | None = None, retries: int = 2) -> Queue:
    """A queue as another process sees it: with a storage of its own."""
    return Queue.open(open_storage(url, folder.journal), folder, "trials", "study", "val/loss", "minimize", retries)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def write_results(folder: StudyFolder, run: str, attempt: str = "20260101-000000-aa", **facts: Any) -> None:
    path = folder.of("trials", run) / attempt
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("{}")
    whole = {"status": "finished", "command": "fit", "metrics": {"val/loss": 0.5, "test/loss": 0.6}}
    (path / "results.json").write_text(json.dumps(whole | facts))


@pytest.mark.parametrize("database", [False, True])
def test_each_run_is_taken_once_by_many(folder: StudyFolder, tmp_path: Path, database: bool) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}" if database else None
    runs = [f"run{i:02}" for i in range(12)]
    first = open_queue(folder, url)
    first.enqueue(map(job, runs))
    open_queue(folder, url).enqueue(map(job, runs))  # a second process with the same file
    assert len(first.study.get_trials()) == 12
    taken: list[str] = []

    def work() -> None:
        queue = open_queue(folder, url)
        while claim := queue.claim(runs, always, NOW):  # without the study's lock: the comparison alone must do
            taken.append(claim.run)
            queue.tell(claim, Outcome("finished", 1.0))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == runs
    assert set(first.states().values()) == {State.FINISHED}


def test_a_run_waits_for_what_it_needs_and_for_nobody_elses(folder: StudyFolder) -> None:
    queue = open_queue(folder)
    queue.enqueue([job("b", needs=("a",)), job("a")])
    assert queue.claim(["b"], lambda needs: not needs, NOW) is None
    claim = queue.claim(["a", "b"], lambda needs: not needs, NOW)
    assert claim is not None
    assert (claim.run, claim.needs) == ("a", ())
    assert queue.claim(["other"], always, NOW) is None


def test_a_failed_run_is_tried_again_a_few_times_and_keeps_its_error(folder: StudyFolder) -> None:
    queue = open_queue(folder, retries=1)
    queue.enqueue([job("a")])
    for attempt in (0, 1):
        claim = queue.claim(["a"], always, NOW)
        assert claim is not None
        assert claim.attempt == attempt
        queue.tell(claim, Outcome("failed", error="no luck"))
        queue.tend(NOW)
    assert queue.claim(["a"], always, NOW) is None
    assert queue.states() == {"a": State.FAILED}
    assert [trial.user_attrs["error"] for trial in queue.attempts()["a"]] == ["no luck"] * 2
    queue.enqueue([job("a")])
    assert queue.states() == {"a": State.FAILED}
    queue.enqueue([job("a")], failed_too=True)
    claim = queue.claim(["a"], always, NOW)
    assert claim is not None
    assert claim.attempt == 0


def test_interruptions_do_not_count_and_mistakes_are_not_tried_again(folder: StudyFolder) -> None:
    queue = open_queue(folder, retries=0)
    queue.enqueue([job("a")])
    for _ in range(3):
        claim = queue.claim(["a"], always, NOW)
        assert claim is not None
        queue.tell(claim, Outcome("interrupted"))
        queue.tend(NOW)
    claim = queue.claim(["a"], always, NOW)
    assert claim is not None
    queue.tell(claim, Outcome("failed", error="--model.lr: ...", retry=False))
    queue.tend(NOW)
    assert queue.states() == {"a": State.FAILED}


def test_what_a_dead_holder_left_is_taken_up_unless_it_was_done(folder: StudyFolder) -> None:
    queue = open_queue(folder)
    queue.enqueue([job("lost"), job("done"), job("diverged"), job("held")])
    for run in ("lost", "done", "diverged"):
        claim = queue.claim([run], always, NOW)
        assert claim is not None
        claim.hold.release()  # as the kernel does for a process that is killed
    held = queue.claim(["held"], always, NOW)
    assert held is not None
    write_results(folder, "lost", status="interrupted")
    write_results(folder, "done")
    write_results(folder, "diverged", status="diverged")
    other = open_queue(folder)
    assert other.tend(NOW) == 3
    assert other.tend(NOW) == 0
    states = other.states()
    assert states == {"lost": State.WAITING, "done": State.FINISHED, "diverged": State.DIVERGED, "held": State.RUNNING}
    assert other.attempts()["done"][0].value == 0.5
    assert [trial.state.name for trial in other.attempts()["lost"]] == ["FAIL", "WAITING"]
    assert other.attempts()["lost"][0].user_attrs["error"] == "its process was killed"
    queue.tell(held, Outcome("finished", None))
    assert other.attempts()["held"][0].value == float("inf")  # a run without the metric is never the best


def test_a_run_killed_between_its_end_and_its_test_is_not_done(folder: StudyFolder) -> None:
    write_results(folder, "a", stages=["fit"], config={"test_after_fit": True})
    assert folder.ended("trials", "a") is None
    write_results(folder, "b", stages=["fit"], config={"test_after_fit": False})
    assert folder.ended("trials", "b") is not None


def test_a_run_is_done_by_its_fit_and_by_no_later_test_of_it(folder: StudyFolder) -> None:
    write_results(folder, "a", status="interrupted")
    write_results(folder, "a", "20260102-000000-aa", command="test", stages=["test"])
    assert folder.ended("trials", "a") is None
    write_results(folder, "a", "20260101-000001-aa")
    ended = folder.ended("trials", "a")
    assert ended is not None
    assert ended[0].name == "20260101-000001-aa"


def test_what_is_on_the_disk_is_found_when_the_storage_is_lost(folder: StudyFolder) -> None:
    write_results(folder, "a")
    write_results(folder, "b", status="diverged")
    queue = open_queue(folder)
    queue.enqueue([job("a"), job("b"), job("c")])
    assert queue.states() == {"a": State.FINISHED, "b": State.DIVERGED, "c": State.WAITING}


def test_a_run_whose_folder_was_removed_is_made_again(folder: StudyFolder) -> None:
    queue = open_queue(folder, retries=1)
    queue.enqueue([job("kept"), job("gone")])
    for run in ("kept", "gone"):
        claim = queue.claim([run], always, NOW)
        assert claim is not None
        write_results(folder, run)
        queue.tell(claim, Outcome("finished", 0.5))
    shutil.rmtree(folder.of("trials", "gone"))
    for _ in range(2):  # a second process finds it enqueued
        open_queue(folder).enqueue([job("kept"), job("gone")])
    assert queue.states() == {"kept": State.FINISHED, "gone": State.WAITING}
    assert len(queue.attempts()["gone"]) == 2
    for attempt in (0, 1):
        claim = queue.claim(["kept", "gone"], always, NOW)
        assert claim is not None
        assert (claim.run, claim.attempt) == ("gone", attempt)
        queue.tell(claim, Outcome("failed", error="no luck"))
        queue.tend(NOW)
    assert queue.states() == {"kept": State.FINISHED, "gone": State.FAILED}  # what it was before does not count


def test_a_killed_process_lets_go_and_its_children_do_not_hold_on(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from dinopl.sweep.locks import Hold\n"
        "hold = Hold.take(Path(sys.argv[1]), time.time())\n"
        "if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        assert is_held(tmp_path, NOW)
        assert Hold.take(tmp_path, NOW) is None
        assert holder(tmp_path)["pid"] == process.pid
        process.kill()
        process.wait()
        for _ in range(200):  # a child that was forked a moment ago lets go as soon as it gets to run
            if not is_held(tmp_path, NOW):
                break
            time.sleep(0.05)
        assert is_held(tmp_path, NOW) is False
        os.killpg(process.pid, signal.SIGKILL)
    taken = Hold.take(tmp_path, NOW)
    assert taken is not None
    taken.release()
    assert is_held(tmp_path, NOW) is False
    assert is_held(tmp_path / "nowhere", NOW) is None


def test_a_holder_elsewhere_is_believed_while_its_time_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / HOLDER
    path.write_text(json.dumps({"machine": "another/1", "pid": 1, "locked": True}))
    modified = path.stat().st_mtime
    assert is_held(tmp_path, modified + 1)
    assert Hold.take(tmp_path, modified + 1) is None
    assert not is_held(tmp_path, modified + STALE_SECONDS + 1)


def test_the_lock_keeps_others_out(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with exclusive(tmp_path / ".lock"):
            order.append("second")

    with exclusive(tmp_path / ".lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_journal_with_half_a_line_at_its_end_is_mended(folder: StudyFolder) -> None:
    open_queue(folder).enqueue([job("a"), job("b")])
    whole = folder.journal.read_bytes()
    folder.journal.write_bytes(whole + b'{"op_code": 4, "work')
    mend(folder.journal)
    assert folder.journal.read_bytes() == whole
    assert list(open_queue(folder).states()) == ["a", "b"]


def test_a_storage_that_cannot_be_opened_is_a_mistake(folder: StudyFolder) -> None:
    with pytest.raises(UserMistake, match="--storage: cannot be opened") as caught:
        open_storage("nodialect://user:secret@host/db", folder.journal)
    assert "secret" not in str(caught.value)
