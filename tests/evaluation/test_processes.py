"""Evaluations that are killed, shared by processes, or started twice."""

import csv
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from comparison import NULLS, SETUP, everything, run

from captum_quantum import _files

LOCK = """
import sys
from pathlib import Path
from captum_quantum import _files
with _files.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_processes_on_one_folder(tmp_path):
    command = [sys.executable, "-c", LOCK, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match="a folder that no other process is writing to"):
            run(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
        other.kill()
        other.wait()
        run(tmp_path)  # the lock has ended with the process


FORKED = """
import os, sys, time
from pathlib import Path
from captum_quantum import _files
with _files.locked(Path(sys.argv[1])):
    if not os.fork():
        sys.stdin.read()  # as a worker of a DataLoader, which notices late that its parent is gone
        os._exit(0)
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_do_not_hold_the_lock(tmp_path):
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError):
            run(tmp_path)
        other.kill()
        other.wait()
        run(tmp_path)  # the forked process is still there


def test_two_comparisons_of_one_process_on_one_folder(tmp_path):
    with (
        _files.locked(tmp_path),
        pytest.raises(BlockingIOError, match="a folder that no other process is writing to"),
    ):
        run(tmp_path)
    run(tmp_path)


KILL = """
import random, shutil, signal
from pathlib import Path

def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}

pause, folder, nulls = 0.0, Path(sys.argv[1]), sys.argv[3:]
run(folder / "whole")
pause = 0.001  # 75 batches of two maps and six null maps each: at least 0.6 s
moments = random.Random(int(sys.argv[2]))
kills, sizes = 0, set()
while kills < 20 or (len(sizes) < 4 and kills < 500):  # a busy machine starts slowly
    child = os.fork()
    if not child:
        run(folder / "killed")
        os._exit(0)
    time.sleep(moments.uniform(0, 0.08))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills += 1
        sizes.add(sum(p.stat().st_size for p in (folder / "killed").glob("part-*.csv")))
    else:  # it was done before: the next ones begin anew
        assert os.WEXITSTATUS(status) == 0
        assert files(folder / "killed") == files(folder / "whole")
        shutil.rmtree(folder / "killed")
pause = 0.0
run(folder / "killed")
print(kills, len(sizes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_nothing_is_lost_or_repeated(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    command = [sys.executable, "-c", SETUP + KILL, str(tmp_path), str(seed), *NULLS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (seed, done.stderr)
    n_kills, n_sizes = map(int, done.stdout.split())
    assert n_kills >= 20, seed
    assert n_sizes >= 4, seed  # they did fall into the work
    for name in ("values.csv", "configuration.json"):
        whole, killed = ((tmp_path / f / name).read_bytes() for f in ("whole", "killed"))
        assert whole == killed, seed
    with (tmp_path / "killed" / "values.csv").open() as file:
        rows = [(int(r["index"]), r["method"]) for r in csv.DictReader(file)]
    names = [m + n for m in ("gradcam", "saliency") for n in ("", *(f" | {n}" for n in NULLS))]
    assert sorted(rows) == [(i, name) for i in range(300) for name in names]
    assert not list((tmp_path / "killed").glob("part-*"))


SHARE = """
import numpy as np
from torch import distributed

pause, folder, store, size, nulls = 0.0, sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
children = []
for rank in range(size):
    child = os.fork()
    if not child:
        distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size
        )
        calls.clear()
        report = run(folder)
        # 75 batches in turn, the metric once for each of two methods and six null maps.
        if len(calls) != 8 * len(range(rank, 75, size)):
            os._exit(2)
        lone = run(None)
        same = all(
            np.array_equal(report.values[k][m], lone.values[k][m])
            for k in report.metrics for m in report.methods
        ) and report.wins == lone.wins and len(report.wins) == 6
        distributed.barrier()
        os._exit(0 if same and len(report) == 300 else 1)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_several_processes_give_the_numbers_of_one(tmp_path):
    alone = SETUP + "\npause, nulls = 0.0, sys.argv[2:]\nrun(sys.argv[1])"
    for code, arguments in (
        (alone, [str(tmp_path / "one"), *NULLS]),
        (SETUP + SHARE, [str(tmp_path / "many"), str(tmp_path / "store"), "2", *NULLS]),
    ):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, many = ((tmp_path / f / "values.csv").read_bytes() for f in ("one", "many"))
    assert one == many


FAILING = """
from datetime import timedelta
from torch import distributed
from captum_quantum.evaluation import storage

where, victim, folder, store, rank = sys.argv[1], int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5])
pause = 0.0
distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(days=30)
)

def faulty(attributions):
    calls.append(len(attributions))
    if rank == victim and len(calls) == 7:
        raise KeyError("broken metric")
    return attributions.flatten(1).abs().sum(dim=1)

faulty.version = 1

class Odd(Exception):
    pass

def fail(*arguments):
    raise Odd("no such thing")

if where == "metric":
    energy = faulty
elif rank == victim:
    if where == "loader":
        batches = map(fail, batches)
    else:
        setattr(storage, where, fail)
try:
    run(folder)
# The process must stay alive after any error, also a wrong one, or the other process would hang;
# the test compares the error's type and message.
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.stdin.read()  # the process stays alive, so that the other does not see it end
"""


@pytest.mark.parametrize(
    ("where", "victim", "message"),
    [
        ("metric", 1, "KeyError: 'broken metric'"),
        ("loader", 0, "Odd: no such thing"),
        ("Part", 1, "Odd: no such thing"),
        ("recover", 0, "Odd: no such thing"),
        ("merge", 0, "Odd: no such thing"),
    ],
)
def test_if_one_process_fails_the_others_do_not_wait(where, victim, message, tmp_path):
    arguments = [where, str(victim), str(tmp_path / "out"), str(tmp_path / "store")]
    command = [sys.executable, "-c", SETUP + FAILING, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, rank], **pipes) for rank in "01"]
    try:
        other = processes[1 - victim].communicate(timeout=30)[0]
        own = processes[victim].communicate(timeout=30)[0]
    finally:
        for process in processes:
            process.kill()
    assert own == f"{message}\n"
    assert other == (
        "RuntimeError: all processes must be able to do their parts; "
        f"got {message}, in process {victim}\n"
    )
    if where == "metric":  # what was found before is there
        size = len((tmp_path / "out" / "part-1.csv").read_text().splitlines())
        assert size == 1 + 3 * 8


RANK = """
import numpy as np
from datetime import timedelta
from torch import distributed

folder, store, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
pause = float(sys.argv[4])
distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
run(folder)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_is_killed(victim, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    alone = SETUP + "\npause = 0.0\nrun(sys.argv[1])"
    subprocess.run([sys.executable, "-c", alone, str(tmp_path / "whole")], check=True)

    def start(number, pause):
        store = tmp_path / f"store-{number}"
        arguments = [str(tmp_path / "killed"), str(store), "rank", pause]
        command = [sys.executable, "-c", SETUP + RANK, *arguments]
        return [
            subprocess.Popen(
                [rank if a == "rank" else a for a in command], stderr=subprocess.DEVNULL
            )
            for rank in ("0", "1")
        ]

    def size():
        return sum(p.stat().st_size for p in (tmp_path / "killed").glob("part-*.csv"))

    for number in range(3):
        processes, before = start(number, "0.02"), size()
        while size() == before:  # until the work is resumed
            assert processes[victim].poll() is None, seed
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        processes[victim].kill()
        # The other one finishes its own batches, finds that nobody is there, and fails.
        assert [p.wait(timeout=60) for p in processes][1 - victim] != 0, seed
        assert not (tmp_path / "killed" / "values.csv").exists()
    assert [p.wait(timeout=60) for p in start(3, "0")] == [0, 0], seed
    for name in ("values.csv", "configuration.json"):
        whole, killed = ((tmp_path / f / name).read_bytes() for f in ("whole", "killed"))
        assert whole == killed, seed


def test_a_run_of_several_processes_can_be_finished_by_one(tmp_path):
    whole = run(tmp_path / "whole")
    lines = (tmp_path / "whole" / "values.csv").read_text().splitlines(keepends=True)
    folder = tmp_path / "parts"
    run(folder)
    (folder / "values.csv").unlink()
    (folder / "part-0.csv").write_text("".join(lines[:1] + lines[21:31]))  # batch 2
    torn = lines[0] + "".join(lines[11:21]) + "".join(lines[31:35]) + lines[35][:9]
    (folder / "part-1.csv").write_text(torn)  # batch 1 and a half of batch 3
    report = run(folder)
    np.testing.assert_array_equal(everything(report), everything(whole))
    assert (folder / "values.csv").read_text() == "".join(lines)
