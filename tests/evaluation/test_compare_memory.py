"""Batches that do not fit in memory are halved; memory does not grow with the data."""

import gc
import os
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from comparison import (
    METHODS,
    METRICS,
    Sized,
    batch,
    batches,
    energy,
    everything,
    run,
    samples,
    small_model,
    stop_after,
    two_methods,
)

from captum_quantum import compare
from captum_quantum.evaluation import storage


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError("Unable to allocate 3 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_batches_are_halved_until_they_fit(error):
    model, sizes = small_model(), []

    def hungry(inputs):
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise error
        return inputs.flatten(1).sum(dim=1)

    def method(inputs, target):
        if len(inputs) > 6:
            raise error
        return inputs

    images, labels = samples(23)
    report = compare(
        {"m": (method, model)},
        [(images[i:j], labels[i:j]) for i, j in ((0, 9), (9, 18), (18, 23))],
        {"hungry": hungry, "energy": energy},
        progress=False,
    )
    np.testing.assert_allclose(
        report.values["hungry"]["m"], images.flatten(1).sum(dim=1), rtol=1e-6
    )
    np.testing.assert_allclose(report.values["energy"]["m"], energy(images), rtol=1e-6)
    # Halved from 9 to 5 to 3, and 3 is remembered for the next batch of 9.
    assert sizes == [9, 5, 3, 3, 3, 3, 3, 3, 5, 3, 2]


def test_a_resumed_run_divides_batches_as_an_undisturbed_one(tmp_path):
    def hungry(attributions):
        if len(attributions) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.rand(len(attributions))

    hungry.version = 1
    images, labels = samples(24)
    cut = [*zip(images[:20].split(10), labels[:20].split(10), strict=True)]
    cut.append((images[20:], labels[20:]))  # after pieces of 3, one of 4 that fits
    metrics = {"hungry": hungry}
    whole = run(None, loader=cut, metrics=metrics)
    for n_done in (1, 2):
        folder = tmp_path / str(n_done)
        with pytest.raises(KeyboardInterrupt):
            run(folder, loader=Sized(stop_after(n_done, among=cut), 3), metrics=metrics)
        report = run(folder, loader=cut, metrics=metrics)
        np.testing.assert_array_equal(everything(report), everything(whole))


def test_a_sample_that_does_not_fit_alone():
    def hungry(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = small_model()
    with pytest.raises(MemoryError, match="a single sample does not fit in memory: CUDA out of"):
        compare({"s": Saliency(model)}, batches(), {"hungry": hungry}, progress=False)


def test_other_runtime_errors_are_not_retried():
    calls = []

    def faulty(inputs):
        calls.append(len(inputs))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = small_model()
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        compare({"s": Saliency(model)}, batches(), {"faulty": faulty}, progress=False)
    assert calls == [5]
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == [
            "in metric 'faulty' of method 's', batch of 5 samples from sample 0 on"
        ]


@pytest.mark.parametrize("nulls", [(), ("other-image",)])
def test_batches_are_let_go(nulls, tmp_path):
    model, seen, alive = small_model(), [], []

    def loader():
        for inputs, labels in batches(60):
            inputs = inputs.clone()
            seen.append(weakref.ref(inputs))
            yield inputs, labels.clone()
            del inputs, labels
            gc.collect()
            alive.append(sum(ref() is not None for ref in seen))

    report = compare(
        two_methods(model),
        loader(),
        {"energy": energy},
        output=tmp_path,
        nulls=nulls,
        progress=False,
    )
    assert len(report) == 60
    assert len(seen) == 12
    # The one at hand, and the first, which is looked at before; with a next sample, the next one.
    assert max(alive) <= 2 + len(nulls)


MEMORY = """
import sys
import torch
from torch import nn
from captum_quantum import compare

torch.set_num_threads(1)
folder, keep = sys.argv[1], sys.argv[2] == "keep"
kept = []

def maps(inputs, target):
    if keep:
        kept.append(inputs)
    return inputs

def loader(n):
    for _ in range(n):
        yield torch.rand(4, 1, 256, 256), torch.arange(4)  # 1 MB

def first(attributions):
    return attributions[:, 0, 0, 0]

maps.version = first.version = 1

def peak(n):
    compare({"m": (maps, nn.Flatten())}, loader(n), {"first": first}, output=f"{folder}/{n}",
            progress=False)
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))

before = peak(10)
print((peak(200) - before) / 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.parametrize("keep", ["keep", "let go"])
def test_twenty_times_the_data_need_no_more_memory(keep, tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path), keep]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if keep == "keep":  # the measurement would see it
        assert float(done.stdout) > 150
    else:
        assert float(done.stdout) < 20


def test_a_merged_file_is_never_whole_in_memory(tmp_path):
    table = storage.Table(METHODS, tuple(METRICS))
    one = batch(0, np.random.default_rng(0).normal(size=(2, 50, 2)))
    many = (one._replace(number=number, start=50 * number) for number in range(400))
    tracemalloc.start()
    try:
        storage.merge(tmp_path, table, many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "values.csv").stat().st_size / 5
