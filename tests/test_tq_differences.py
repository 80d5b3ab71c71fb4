"""The page of gates that do not work says what is true of the installed TorchQuantum."""

from pathlib import Path

import pytest
import tq_differences

from captum_quantum.circuit import gate_type
from captum_quantum.tq.run import applies

PAGE = Path(__file__).parent / "docs" / "gates.md"


@pytest.fixture(scope="module")
def found():
    return tq_differences.report()


def test_the_page_lists_what_does_not_work(found):
    def rows(text):
        return [line for line in text.splitlines() if line.startswith("| `")]

    assert rows(tq_differences.table(found)) == rows(PAGE.read_text(encoding="utf-8"))


def test_the_guard_knows_the_same_gates(found):
    """`applies` tries functions alone and in batches; it shares no code with the page's script."""
    broken = {name for name, ways in found["gates"].items() if ways["batch"] != "works"}
    broken -= {"cu2", "globalphase"}
    names = {*tq_differences.tq.functional.func_name_dict} - tq_differences.NOT_GATES
    known = names - {"cu2", "globalphase"}
    assert {name for name in known if not applies(name)} == broken
    assert all(gate_type(name) for name in known)


def test_a_mended_gate_is_seen(monkeypatch):
    """The tables follow what is installed."""
    functional = tq_differences.tq.functional
    assert set(tq_differences.gates()["u1"].values()) == {"NameError"}
    monkeypatch.setitem(functional.func_name_dict, "u1", functional.phaseshift)
    assert tq_differences.try_gate("u1", "alone") == "works"
    applies.cache_clear()
    assert applies("u1")
    monkeypatch.setitem(functional.func_name_dict, "u1", functional.rz)
    applies.cache_clear()
    assert tq_differences.try_gate("u1", "alone") == "differs"
    assert not applies("u1")
    applies.cache_clear()
