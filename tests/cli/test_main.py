"""The command line as a whole."""

import subprocess
import sys

import pytest

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

HEAVY = ["torch", "torchquantum", "qiskit", "captum", "matplotlib", "sklearn", "torchvision", "PIL"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["demo", "--help"], ["explain", "--help"], ["evaluate", "--help"]]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from captum_quantum.__main__ import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as end: status = end.code\n"
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules], status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: [] 0"
    if arguments[:-1]:
        for option in ("--device", "--seed", "--output"):
            assert option in done.stdout
    else:
        assert "demo" in done.stdout
        assert "explain" in done.stdout


def test_python_m():
    command = [sys.executable, "-m", "captum_quantum", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("captum-quantum ")


def test_unwritable_output(demo, image, tmp_path, check_refused):
    (tmp_path / "file").write_text("in the way")
    message = "--output must be a folder that can be written to; got "
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        check_refused(["demo", "--output", str(folder)], message)
    arguments = ["--weights", str(demo / "weights.safetensors"), "--image", str(image)]
    check_refused(["explain", *arguments, "--output", str(tmp_path / "file")], message)


def test_refusal_of_a_process_is_one_line(tmp_path):
    arguments = ["explain", "--weights", str(tmp_path / "w"), "--image", str(tmp_path / "i")]
    command = [sys.executable, "-m", "captum_quantum", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
