"""The benchmark: that all systems do the same work, and that its report says what was measured."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jobs
import measure
import memory
import numpy as np
import pytest
import reference as ref
import report
import simulators
import systems
import torch

from captum_quantum import VQCLayer
from captum_quantum.simulate import FusedSimulator
from captum_quantum.tq.installed import name_and_version

FOLDER = Path(__file__).parent / "benchmarks"


# What the extra `test` brings; the other systems are tested where they are installed.
ALWAYS = {"fused", "torchquantum-layer", "torchquantum-modules", "torchquantum-static"}
ALWAYS |= {"pennylane", "lightning"}


def _truth(work, weights):
    """Values, and gradients by inputs and weights, from the dense reference simulator."""
    z = [[(1.0, {wire: "Z"})] for wire in range(work.n)]
    values, by_inputs = np.zeros((work.batch, work.n)), np.zeros((work.batch, work.n))
    by_weights = np.zeros(work.layers * work.n * 3)
    for sample in range(work.batch):
        gates = [("ry", (q,), [work.inputs[sample, q].item()], False) for q in range(work.n)]
        for layer in range(work.layers):
            for q in range(work.n):
                for k, name in enumerate(("rx", "ry", "rz")):
                    gates.append((name, (q,), [weights[layer, q, k].item()], False))
            gates += [("cnot", (q, (q + 1) % work.n), [], False) for q in range(work.n)]
        values[sample] = ref.expectations(work.n, gates, z, None)
        cotangent = work.cotangent[sample].double().numpy()
        turning = [g for g, gate in enumerate(gates) if gate[2]]
        pulled = [cotangent @ ref.derivative(work.n, gates, z, g, 0, None) for g in turning]
        by_inputs[sample] = pulled[: work.n]
        by_weights += pulled[work.n :]
    return [values, by_inputs, by_weights.reshape(weights.shape)]


@pytest.mark.parametrize("train", [False, True])
def test_all_systems_do_the_same_work(train):
    assert {system.name for system in systems.installed()} >= ALWAYS
    work = systems.make_work(3, 2, 4, train)
    first = _truth(work, work.weights)
    second = (
        _truth(work, work.weights.numpy() - systems.LEARNING_RATE * first[2]) if train else first
    )
    for system in systems.installed():
        made = system(work)
        for expected in (first, second):
            found = made.arrays(made.step())
            assert len(found) == (3 if train else 2)
            for one, other in zip(found, expected, strict=False):
                np.testing.assert_allclose(one, other, atol=3e-6, err_msg=system.name)


def test_training_changes_the_weights_of_every_system():
    """Else what depends on weights could be reused, and the truth above is met to 3e-6 anyway."""
    work = systems.make_work(3, 1, 4, True)
    for system in systems.installed():
        if not system.in_torch:
            continue  # it hands its weights over from step to step
        made = system(work)
        before = torch.cat([own.detach().reshape(-1).clone() for own in made.parameters])
        _, _, by_weights = made.step()
        after = torch.cat([own.detach().reshape(-1) for own in made.parameters])
        step = torch.cat([own.reshape(-1) for own in by_weights]) * systems.LEARNING_RATE
        assert torch.equal(before, work.weights.reshape(-1)), system.name
        torch.testing.assert_close(after, before - step, rtol=0, atol=1e-6)
        assert step.abs().max() > 1e-5


def test_a_system_that_does_other_work_is_refused():
    right = [np.zeros((2, 2))]
    assert measure._check("x", [np.full((2, 2), 1e-6)], right) == pytest.approx(1e-6)
    for wrong in (1e-3, np.nan):
        with pytest.raises(RuntimeError, match="x does other work"):
            measure._check("x", [np.full((2, 2), wrong)], right)


def test_passes_of_a_plan_counted_by_hand():
    def step(kind, **attributes):
        return type(kind, (), attributes)()

    circuit = SimpleNamespace(n_qubits=3, observables=[None, None])
    dense = step("Dense", wires=(0, 1))
    swap = step("Monomial", rows=torch.arange(8), phases=())
    phase = step("Monomial", rows=None, phases=((0, None),))
    turn = step("InputPhases", multiplications=2)
    numbers = 2**3 * 5  # in the states of 5 samples
    ends = 6 + (3 + 2 * 2) + (2 * 2 + 2) + 8, 1 + 1 + 2 + 1  # operations, states read and written

    def total(steps, train):
        passes = measure.plan_passes(SimpleNamespace(circuit=circuit, steps=steps), 5, train)
        operations, size = map(sum, zip(*passes, strict=True))
        return operations / numbers - ends[0], size / (8 * numbers) - ends[1]

    # A 4 x 4 complex matrix: 4 products and sums of 8 operations for each number; reads and writes.
    assert total([], False) == (0, 0)
    assert total([dense], False) == (2 * 32, 2 * 2)
    assert total([dense], True) == (4 * 32, 4 * 2)
    assert total([swap], False) == (0, 2 * 2)
    assert total([swap], True) == (0, 3 * 2)
    assert total([phase], False) == (2 * 6, 2 * 2)
    assert total([phase], True) == (4 * 6, 4 * 2)
    # A turn depends on the inputs: the state is needed on the way back. Its two vectors are passes.
    assert total([dense, turn], False) == (3 * 32 + 3 * 12 + 8, 3 * 2 + 3 * 4 + 2)
    with pytest.raises(TypeError, match="Other"):
        total([step("Other")], False)
    for layer in (VQCLayer(7, reupload=True), VQCLayer(8, ansatz="qcnn")):  # real plans are known
        plan = FusedSimulator().plan(layer.circuit)
        assert len(measure.plan_passes(plan, 2, True)) > len(plan.steps)


def _row(n, layers, batch, **times):
    own = {
        name.replace("_", "-"): {
            "median_ms": t,
            "q1_ms": t,
            "q3_ms": t,
            "repetitions": 3,
            "steps_each": 1,
            "largest_difference": 1e-7,
        }
        for name, t in times.items()
    }
    return {"n": n, "layers": layers, "batch": batch, "systems": own, "left_out": {}}


def test_bounds_are_judged_by_the_fastest_form_and_peer():
    rows = [
        _row(4, 2, 64, fused=1, torchquantum_layer=30, torchquantum_modules=20, pennylane=40),
        _row(8, 2, 64, fused=2, torchquantum_layer=100, torchquantum_modules=160, lightning=8),
    ]
    rows[0]["systems"]["tensorcircuit-jax"] = {"median_ms": 0.1}
    results = {"settings": {"device": "cpu"}, "tables": {"input_gradient": rows}}
    found = {bound.what: bound for bound in report.bounds(results)}
    start = "input gradient: time of "
    least = found[start + "TorchQuantum / ours, smallest row"]
    mean = found[start + "TorchQuantum / ours, geometric mean"]
    assert least.measured == 20
    assert least.met(least.must) is True
    assert mean.measured == pytest.approx(math.sqrt(20 * 50))
    assert (mean.met(mean.must), mean.met(mean.aim)) == (True, True)
    peer = found[start + "the fastest other peer in PyTorch / ours, smallest row"]
    assert peer.measured == 4
    assert peer.met(peer.must) is False


def test_rise():
    assert report.rise([8, 4, 2, 1]) == 1
    assert report.rise([8, 4, 6, 5]) == 1.5


def _valid(folder, sections):
    results = json.loads((folder / "cpu.json").read_text(encoding="utf-8"))
    assert list(results["tables"]) == list(sections)
    quick = measure.QUICK
    for section in report.TITLES:
        rows = results["tables"][section]
        assert [(row["n"], row["layers"], row["batch"]) for row in rows] == list(quick.rows)
        for row in rows:
            assert row["systems"].keys() >= ALWAYS
            assert row["systems"].keys() | row["left_out"].keys() == set(report.LABELS)
            assert set(row["left_out"].values()) <= {"not installed"}
            for own in row["systems"].values():
                assert len(own["times_ms"]) == own["repetitions"] == quick.repetitions
                assert own["q1_ms"] <= own["median_ms"] <= own["q3_ms"]
                assert min(own["times_ms"]) > 0
                assert own["largest_difference"] < 1e-5
    torchquantum = {"torchquantum", "torchquantum-ng"} & results["all_versions"].keys()
    assert {f"{name} {results['versions'][name]}" for name in torchquantum} == {name_and_version()}
    assert len(results["commit"]) == 40 or results["commit"] == "unknown"
    assert results["machine"]["cores"] >= 1
    assert all(math.isfinite(bound["measured"]) for bound in results["bounds"])
    text = (folder / "cpu.md").read_text(encoding="utf-8")
    assert all(bound["what"] in text for bound in results["bounds"])
    assert (folder / "cpu.png").stat().st_size > 10_000
    return results


def test_script_measures_writes_and_remakes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sections = [name for name in simulators.SECTIONS if name != "memory"]
    first, second = tmp_path / "first", tmp_path / "second"
    simulators.main(["--quick", "--threads", "1", "--output", str(first), "--only", *sections])
    _valid(first, sections)
    assert "## Bounds" in capsys.readouterr().out
    simulators.main(["--from-json", str(first / "cpu.json"), "--output", str(second)])
    for name in ("cpu.json", "cpu.md"):
        assert (second / name).read_text() == (first / name).read_text()


@pytest.mark.slow
def test_whole_script(tmp_path):
    command = [sys.executable, str(FOLDER / "simulators.py"), "--quick", "--threads", "1"]
    subprocess.run([*command, "--output", str(tmp_path)], check=True)
    results = _valid(tmp_path, simulators.SECTIONS)
    for row in results["tables"]["memory"]:
        for both in row["systems"].values():
            assert [own["layers"] for own in both] == row["layers"]
            assert all(own["peak_bytes"] >= own["kept_bytes"] + own["step_bytes"] for own in both)
            assert all(own["step_bytes"] > 0 for own in both)


def test_memory_is_that_of_tensors_alive_at_the_same_time():
    kept = []

    def work():
        kept.append(torch.empty(2**20, dtype=torch.uint8))
        for _ in range(3):
            torch.empty(2**22, dtype=torch.uint8)

    highest, remaining = memory.host_bytes(work)
    assert highest == 2**20 + 2**22
    assert remaining == 2**20


class _Failing:
    """A job that fails when it is made, in its step, or by the end of its process."""

    def __init__(self, device, how):
        self.how = how
        if how == "made":
            raise RuntimeError("cannot be made\nand more")

    def step(self):
        if self.how == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        if self.how == "process":
            os._exit(3)
        return self.how

    def arrays(self, found):
        return [np.array([len(found)])]


def _serve(pipe, device, threads):
    jobs.MAKERS["failing"] = _Failing
    jobs.serve(pipe, device, threads)


def test_a_job_that_fails_in_its_process_says_why(monkeypatch):
    monkeypatch.setattr(jobs, "serve", _serve)
    worker = jobs.Worker(torch.device("cpu"), 1)
    with pytest.raises(jobs.JobError, match=r"RuntimeError: cannot be made$") as error:
        worker.make("failing", "made")
    assert error.value.out_of_memory is False
    assert "_Failing" in str(error.value.__cause__) or "__init__" in str(error.value.__cause__)
    with pytest.raises(jobs.JobError, match="allocate memory") as error:
        worker.make("failing", "memory")
    assert error.value.out_of_memory is True
    assert worker.make("failing", "fine") == [4]  # it goes on after errors
    assert worker.seconds(3, warm=True) > 0
    with pytest.raises(RuntimeError, match="exit code 3"):
        worker.make("failing", "process")
    worker.close()
