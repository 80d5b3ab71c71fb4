"""Which TorchQuantum is accepted at first use, and what is said of one that is not."""

import re
import subprocess
import sys
import textwrap
from importlib import metadata
from types import ModuleType, SimpleNamespace

import pytest
import torchquantum as tq

from captum_quantum.tq import installed


class Reversed(tq.QuantumDevice):
    """Wire 0 is the least significant bit, as in Qiskit."""

    def get_states_1d(self):
        wires = range(self.n_wires, 0, -1)
        return self.states.permute(0, *wires).reshape(len(self.states), -1)


class Forgetful(tq.QuantumDevice):
    """Records names only."""

    def get_states_1d(self):
        self.op_history = [{"name": entry["name"]} for entry in self.op_history]
        return super().get_states_1d()


def raising(*args, **kwargs):
    raise RuntimeError("no kernel")


@pytest.fixture
def install(monkeypatch):
    """Puts a copy of the installed module in its place; names that are None are taken away."""

    def installed_module(functional=None, **changes):
        def copy(module, changes):
            fake = ModuleType(module.__name__)
            fake.__dict__.update(vars(module) | changes)
            for name in [name for name, value in changes.items() if value is None]:
                delattr(fake, name)
            monkeypatch.setitem(sys.modules, module.__name__, fake)
            return fake

        inner = copy(tq.functional, functional or {})
        return copy(tq, {"functional": inner, **changes})

    return installed_module


def test_the_installed_distribution():
    there = [name for name in installed.DISTRIBUTIONS if [*metadata.distributions(name=name)]]
    assert len(there) == 1
    assert installed.name_and_version() == f"{there[0]} {metadata.version(there[0])}"


def test_any_module_that_passes_is_accepted(install, monkeypatch):
    fake = install(extra=1)
    assert installed.import_torchquantum() is fake
    monkeypatch.setattr(installed.metadata, "distributions", lambda name: [])
    assert installed.import_torchquantum() is fake
    assert installed.name_and_version() == "a torchquantum that pip has not installed"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"GeneralEncoder": None}, "torchquantum has no GeneralEncoder"),
        (
            {"QuantumDevice": None, "Encoder": None},
            "torchquantum has no QuantumDevice, Encoder",
        ),
        ({"functional": {"mat_dict": None}}, "torchquantum.functional has no mat_dict"),
        ({"QuantumDevice": Reversed}, "do not give their state, wire 0 first"),
        ({"functional": {"cnot": tq.functional.swap}}, "do not give their state, wire 0 first"),
        ({"QuantumDevice": Forgetful}, "does not record gates by name, wires, params, inverse"),
        ({"functional": {"rx": raising}}, "end in RuntimeError: no kernel"),
    ],
)
def test_what_is_wrong_with_a_module_is_named(install, changes, says):
    install(**changes)
    with pytest.raises(ImportError, match=re.escape(says)) as error:
        installed.import_torchquantum()
    start = f"captum_quantum cannot use {installed.name_and_version()}"
    assert str(error.value).startswith(start)
    assert ". This works" in str(error.value)


def test_two_distributions_are_an_error_that_names_both(monkeypatch):
    versions = {"torchquantum": "0.1.8", "torchquantum-ng": "0.2.0"}
    monkeypatch.setattr(
        installed.metadata,
        "distributions",
        lambda name: [SimpleNamespace(name=name, version=versions[name])],
    )
    message = (
        "torchquantum 0.1.8 and torchquantum-ng 0.2.0 are both installed, and each overwrites the "
        "other's module torchquantum: uninstall both, then install one"
    )
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        installed.import_torchquantum()


def test_of_one_distribution_on_the_path_twice_the_first_counts(monkeypatch):
    def twice(name):
        versions = ("0.3.0", "0.1.8") if name == "torchquantum" else ()
        return [SimpleNamespace(name=name, version=version) for version in versions]

    monkeypatch.setattr(installed.metadata, "distributions", twice)
    assert installed.name_and_version() == "torchquantum 0.3.0"


def use(folder):
    """The last line of what a program says that uses a layer, with a folder first on its path."""
    code = f"""
        import sys
        sys.path.insert(0, {str(folder)!r})
        from captum_quantum import VQCLayer
        VQCLayer(2)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def test_another_module_of_that_name(tmp_path):
    package = tmp_path / "torchquantum"
    package.mkdir()
    (package / "__init__.py").write_text("class QuantumDevice: ...\n")
    (package / "functional.py").write_text("")
    last = use(tmp_path)
    assert last.startswith("ImportError: captum_quantum cannot use ")
    assert str(package / "__init__.py") in last
    assert "torchquantum has no QuantumModule, Encoder, GeneralEncoder, StateEncoder" in last


def test_two_distributions_at_first_use(tmp_path):
    for name, version in (("torchquantum", "0.1.8"), ("torchquantum-ng", "0.2.0")):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        content = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / "METADATA").write_text(content)
    last = use(tmp_path)
    assert last.startswith("ImportError: torchquantum 0.1.8 and torchquantum-ng 0.2.0 are both ")
