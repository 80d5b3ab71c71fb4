"""The table of data sets."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from captum_quantum.datasets import (
    load_digits,
    mosaics,
    named_datasets,
    read_digit,
    register_dataset,
    registry,
)
from captum_quantum.models import digits_model


def test_the_digits():
    digits = named_datasets()["digits"]
    assert (digits.load, digits.read, digits.mosaics) == (load_digits, read_digit, mosaics)
    assert list(digits.classes) == list("0123456789")
    assert (digits.classes["7"], digits.classes["8"]) == ("a 7", "an 8")
    assert digits.training == {"epochs": 40, "batch_size": 64, "lr": 5e-3}
    circuit = digits.model().config
    assert [circuit[key] for key in ("n_qubits", "n_layers", "ansatz")] == [8, 1, "u3cu3"]
    assert [circuit[key] for key in ("observables", "weight_std")] == ["X", 0.1]
    expected = digits_model(n_qubits=3, seed=5)
    found = digits.model(**expected.config, seed=5)
    assert found.config == expected.config
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_registration(monkeypatch):
    monkeypatch.setattr(registry, "_DATASETS", dict(registry._DATASETS))
    digits = named_datasets()["digits"]
    other = dataclasses.replace(digits, name="other")
    assert register_dataset(other) is other
    assert list(named_datasets()) == ["digits", "mnist", "other"]
    with pytest.raises(ValueError, match="dataset.name must be a new name; got 'other'"):
        register_dataset(other)
    with pytest.raises(TypeError, match="dataset must be a Dataset; got 'other'"):
        register_dataset("other")
    named_datasets().clear()  # a copy
    assert "other" in named_datasets()


def test_the_table_is_read_without_pytorch():
    code = (
        "import sys; from captum_quantum.datasets import named_datasets; print(*named_datasets())\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["digits mnist", "[]"]
