"""Settings of all tests, and what several of them compare circuits with."""

import hypothesis
import pytest
import torch
import truth as reference_truth

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
