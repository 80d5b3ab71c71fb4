"""Settings of all tests, and what several of them compare circuits with."""

import hypothesis
import pytest
import torch
import truth as reference_truth
from PIL import Image

from captum_quantum.cli import main

# Tests run in several processes, and the circuits are small: more threads only get in the way.
torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "deterministic", derandomize=True, deadline=None, database=None, print_blob=False
)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def truth():
    """What the reference simulator says of a `Circuit`: values and derivatives."""
    return reference_truth


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder of a demo that trains for two epochs."""
    output = tmp_path_factory.mktemp("demo") / "made" / "here"
    assert main(["demo", "--epochs", "2", "--device", "cpu", "--output", str(output)]) == 0
    return output


@pytest.fixture
def image(tmp_path):
    """The file of a handwritten digit's image."""
    from captum_quantum.datasets import load_digits

    pixels = (load_digits().test_images[3, 0] * 255).byte().numpy()
    Image.fromarray(pixels).resize((90, 90)).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


@pytest.fixture
def check_refused(capsys):
    """Checks that a command refuses its arguments, with a message of one line."""

    def check(arguments, message):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith(f"captum-quantum {arguments[0]}: error: ")
        assert message in err

    return check
