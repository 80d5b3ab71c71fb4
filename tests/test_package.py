"""The package as a whole: what importing it costs, its public names, what it says when broken."""

import subprocess
import sys
import textwrap

import pytest

import captum_quantum


def run(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


def test_importing_it_imports_nothing_heavy():
    done = run("""
        import sys
        import captum_quantum
        heavy = {"torch", "torchquantum", "qiskit", "torchvision", "torchaudio", "matplotlib"}
        print(sorted(heavy & set(sys.modules)))
    """)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_attribution_imports_no_quantum_package():
    done = run("""
        import sys
        from captum_quantum import QuantumLayerGradCam, quantum_gradient, VQCLayer
        import captum_quantum
        assert captum_quantum.metrics.average_drop.higher_is_better is False
        print(sorted({"torchquantum", "qiskit", "torchvision", "torchaudio"} & set(sys.modules)))
    """)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", captum_quantum.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(captum_quantum, name).__doc__
    assert name in dir(captum_quantum)


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'VQClayer'"):
        _ = captum_quantum.VQClayer


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        ("sys.modules['torchquantum'] = None", "ModuleNotFoundError"),
        ("sys.modules['qiskit_ibm_runtime'] = None", "qiskit"),
    ],
)
def test_a_missing_or_broken_torchquantum_says_what_to_install(breakage, says):
    done = run(f"""
        import sys
        {breakage}
        from captum_quantum import VQCLayer
        VQCLayer(2)
    """)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: captum_quantum needs TorchQuantum, whose import failed")
    assert says in last
    if sys.version_info >= (3, 13):
        assert last.endswith(". This works: pip install 'torchquantum-ng>=0.2,<0.3'")
    else:
        assert "needs and does not declare: pip install 'torchquantum==0.1.8' " in last
        assert "'qiskit-ibm-runtime>=0.20,<0.21' 'qiskit-aer>=0.13,<0.14' 'qiskit<1'" in last
