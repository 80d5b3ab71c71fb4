"""The versions that a bug report needs."""

import platform
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import captum_quantum
from captum_quantum import _versions
from captum_quantum.__main__ import main


def read(printed):
    """The lines as a dict; names and values are two blanks apart."""
    pairs = [line.split("  ", 1) for line in printed.splitlines()]
    return {name: value.strip() for name, value in pairs}


def test_it_prints_system_versions_and_gpu(capsys):
    captum_quantum.show_versions()
    shown = read(capsys.readouterr().out)
    assert [*shown][:2] == ["captum-quantum", "python"]
    assert shown["captum-quantum"] == captum_quantum.__version__
    assert shown["python"] == platform.python_version()
    assert shown["system"] == platform.platform()
    assert shown["numpy"] == np.__version__
    assert torch.__version__.startswith(shown["torch"])
    assert shown["CUDA of torch"] == str(torch.version.cuda)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "None"
    assert shown["GPU"] == gpu
    # One of the two TorchQuantums, not both.
    assert len({"torchquantum", "torchquantum-ng"} & shown.keys()) == 1
    for name in ("torchvision", "torchaudio", "captum", "qiskit", "qiskit-aer", "scipy"):
        assert shown[name] == metadata.version(name)


def test_what_is_not_installed_is_left_out(monkeypatch):
    def only_torch(name):
        versions = ("2.14.1", "2.11.0") if name == "torch" else ()
        return [SimpleNamespace(version=version) for version in versions]

    monkeypatch.setattr(_versions.metadata, "distributions", only_torch)
    assert [*_versions.versions()] == ["captum-quantum", "python", "torch"]
    assert _versions.versions()["torch"] == "2.14.1"  # the first on the path is imported


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    captum_quantum.show_versions()
    shown = read(capsys.readouterr().out)
    assert shown["torch's import"].startswith("ModuleNotFoundError: ")
    assert "GPU" not in shown


def test_the_command_prints_the_same(capsys):
    captum_quantum.show_versions()
    expected = capsys.readouterr().out
    command = [sys.executable, "-m", "captum_quantum", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == expected


def test_it_needs_no_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out.startswith("captum-quantum ")
