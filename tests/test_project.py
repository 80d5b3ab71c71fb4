"""What stands beside the package: the workflow and the guide for developers."""

import re
import shutil
import subprocess
from pathlib import Path

import yaml

import captum_quantum

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_workflow_runs_the_tests_on_every_supported_python():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    runs = {run["python"]: run for run in job["strategy"]["matrix"]["include"]}
    assert [python for python, run in runs.items() if "unverified" not in run] == supported
    assert set(runs) - set(supported) == {"3.14"}
    assert runs["3.14"]["unverified"] is True
    assert job["continue-on-error"] == "${{ matrix.unverified == true }}"
    for python, run in runs.items():
        second = python in ("3.13", "3.14")
        target = "test-qiskit2 PYTHON_QISKIT2" if second else "test PYTHON"
        assert run["command"] == f"make {target}=python"
    assert job["steps"][-1] == {"run": "${{ matrix.command }}"}
    assert job["steps"][-2]["with"]["cache"] == "pip"
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in text


def test_ci_runs_both_environments():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line.split("#")[0].strip() for line in lines[-2:]] == ["make test", "make test-qiskit2"]
    assert "set -euo pipefail" in lines


def test_a_missing_python_is_an_error_that_says_how_to_name_one(tmp_path):
    for target, variable, says in (
        ("lint", "PYTHON", "needs Python 3.10, 3.11 or 3.12; not found as: /nowhere."),
        ("test-qiskit2", "PYTHON_QISKIT2", "needs Python 3.13; not found as: /nowhere."),
    ):
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-qiskit2.txt"):
            shutil.copy(ROOT / name, tmp_path)
        command = ["make", target, f"{variable}=/nowhere"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert says in done.stderr
        assert "make PYTHON" in done.stderr
        assert not [*tmp_path.glob(".venv*")]


def test_make_lists_its_targets():
    command = ["make", "--no-print-directory"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^\.PHONY: (.*)", makefile, re.M)
    assert re.findall(r"^  make (\S+) +[A-Z]", done.stdout, re.M) == listed.split()


def test_the_tests_of_the_second_environment_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (listed,) = re.findall(r"^TESTS_QISKIT2 := (.*)", makefile, re.M)
    paths = listed.split()
    assert all((ROOT / path).exists() for path in paths)
    core = ("tq", "circuit", "simulate", "layer", "gradients", "attr", "models", "package")
    for room in core:
        assert f"tests/{room}" in paths or f"tests/test_{room}.py" in paths, room


def test_the_guide_knows_every_room():
    rooms = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", GUIDE, re.M)
    folder = Path(captum_quantum.__file__).parent
    there = {path.parent.name for path in folder.glob("*/__init__.py")}
    there |= {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    assert set(rooms) == there


def test_the_guide_knows_every_target_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", makefile, re.M)) - {"help"}
    assert set(re.findall(r"^\| `make ([a-z0-9-]+)` \|", GUIDE, re.M)) == targets


def test_what_the_guide_names_is_there():
    for path in re.findall(r"`((?:tests|tutorials)/[\w/.-]*)`", GUIDE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((\.\./[^)]*)\)", GUIDE):
        assert (ROOT / ".github" / path).exists(), path
