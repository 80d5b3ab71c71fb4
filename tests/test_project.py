"""What stands beside the package: the workflow and the guide for developers."""

import re
from pathlib import Path

import yaml

import captum_quantum

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_workflow_runs_make_test_on_every_supported_python():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert job["strategy"]["matrix"]["python"] == supported
    assert job["steps"][-1] == {"run": "make test PYTHON=python"}
    assert job["steps"][-2]["with"]["cache"] == "pip"
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in text


def test_the_guide_knows_every_room():
    rooms = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", GUIDE, re.M)
    folder = Path(captum_quantum.__file__).parent
    there = {path.parent.name for path in folder.glob("*/__init__.py")}
    there |= {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    assert set(rooms) == there


def test_the_guide_knows_every_target_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M)) - {"help"}
    assert set(re.findall(r"^\| `make ([a-z-]+)` \|", GUIDE, re.M)) == targets


def test_what_the_guide_names_is_there():
    for path in re.findall(r"`((?:tests|tutorials)/[\w/.-]*)`", GUIDE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((\.\./[^)]*)\)", GUIDE):
        assert (ROOT / ".github" / path).exists(), path
