"""The wheel and the sdist: what is in them, and that they install, work and replace nothing.

Nothing is downloaded but by the last test: the packages are built with the installed setuptools,
and the wheel is installed without its dependencies, which the new environment finds in this one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import captum_quantum

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
OUTPUTS = ("__pycache__", "*.egg-info", "build", "dist", "*-output", "*_cache", ".venv*", ".git")
GENERATED = {"PKG-INFO", "setup.cfg"}


def run(*command, cwd, **environment):
    """The standard output of a command that must succeed, without this checkout on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_environment(folder, *paths):
    """A virtual environment that sees the given folders; returns its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = run(python, "-c", code, cwd=folder).strip()
    Path(site, "others.pth").write_text("\n".join(map(str, paths)) + "\n")
    return python


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds wheel and sdist, the wheel from the sdist, from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*OUTPUTS))
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist")
    run(*command, folder / "source", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The folder of an unpacked sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built[1]) as archive:
        archive.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """The Python of a new environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    found = new_environment(folder, sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", found)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", built[0], cwd=folder)
    return found


def test_twine_finds_nothing(built):
    printed = run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=ROOT)
    assert printed.count("PASSED") == 2


def test_the_wheel_holds_the_package_alone(built):
    package = Path(captum_quantum.__file__).parent
    expected = {str(path.relative_to(package.parent)) for path in package.rglob("*.py")}
    expected.add("captum_quantum/py.typed")
    info = f"captum_quantum-{captum_quantum.__version__}.dist-info/"
    for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"):
        expected.add(info + name)
    expected.add(f"{info}licenses/LICENSE")
    assert {*zipfile.ZipFile(built[0]).namelist()} == expected


def test_the_metadata(built):
    info = f"captum_quantum-{captum_quantum.__version__}.dist-info/METADATA"
    text = zipfile.ZipFile(built[0]).read(info).decode()
    for kind in ("Paper", "Captum", "TorchQuantum"):
        assert f"Project-URL: {kind}, https://" in text
    for minor in range(10, 14):
        assert f"Classifier: Programming Language :: Python :: 3.{minor}\n" in text
    assert "Requires-Python: >=3.10\n" in text
    ranges = re.findall(r"^Requires-Dist: torch(?:vision|audio)?([<>=!~].*)", text, re.M)
    assert len(ranges) == 3
    assert all(re.fullmatch(r">=[\d.]+", one) for one in ranges), ranges


def test_the_sdist_holds_the_checkout(unpacked):
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git to compare with")
    tracked = {*run("git", "ls-files", cwd=ROOT).splitlines()}
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    there = {path for path in there if not path.startswith("captum_quantum.egg-info/")}
    assert there - GENERATED == tracked


def test_tests_of_the_sdist_run(unpacked):
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    environment = {"PYTHONPATH": str(unpacked)}
    run(*command, "--collect-only", cwd=unpacked, **environment)
    files = ("tests/test_project.py", "tests/test_architecture.py", "tests/test_circuit.py")
    run(*command, *files, cwd=unpacked, **environment)


def test_the_installed_wheel_works(python, tmp_path):
    code = """
        import torch, captum_quantum
        from captum_quantum import QuantumLayerGradCam, VQCLayer
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1),
                                    torch.nn.Flatten(), VQCLayer(4, n_layers=2))
        maps = QuantumLayerGradCam(model, model[0]).attribute(torch.rand(2, 1, 8, 8), target=1)
        print(captum_quantum.__file__, tuple(maps.shape))
    """
    file, shape = run(python, "-c", re.sub("^ +", "", code, flags=re.M), cwd=tmp_path).split(" ", 1)
    assert Path(file).is_relative_to(python.parent.parent)
    assert shape == "(2, 1, 6, 6)\n"


def test_the_installed_command_works(python, tmp_path):
    command = python.with_name("captum-quantum")
    first = run(command, "--version", cwd=tmp_path).splitlines()[0]
    assert first.split() == ["captum-quantum", captum_quantum.__version__]
    assert "--weights" in run(command, "explain", "--help", cwd=tmp_path)


def closure(names):
    """Distributions that are installed: those named and all that they need."""
    found, waiting = {}, [*names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", waiting.pop())[0]).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform or an extra
        waiting += found[name].requires or []
    return found


@pytest.mark.skipif(sys.version_info < (3, 13), reason="of the environment with Qiskit 2")
def test_an_environment_of_today_is_left_as_it_was(built, tmp_path):
    """`pip install` adds to Qiskit 2, NumPy and torch and replaces nothing; pip's dry run says it.

    The new environment has the metadata of these and of what they need, which is all that pip reads
    to resolve. The rest comes from the package index.
    """
    names = ("torch", "torchvision", "qiskit", "qiskit-aer", "qiskit-ibm-runtime", "numpy")
    user = tmp_path / "user"
    user.mkdir()
    there = closure(names)
    for distribution in there.values():
        info = Path(str(distribution._path))
        (user / info.name).symlink_to(info, target_is_directory=True)
    python = new_environment(tmp_path / "environment", user)
    pip = (sys.executable, "-m", "pip", "--python", python)
    frozen = run(*pip, "freeze", cwd=tmp_path)
    assert f"numpy=={metadata.version('numpy')}" in frozen
    report = tmp_path / "report.json"
    run(*pip, "install", "--quiet", "--dry-run", "--report", report, built[0], cwd=tmp_path)
    chosen = {
        re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()
        for one in json.loads(report.read_text(encoding="utf-8"))["install"]
    }
    assert {"captum-quantum", "captum", "torchquantum-ng"} <= chosen
    assert not chosen & set(there)
