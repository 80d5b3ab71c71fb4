"""Entanglement patterns by Qiskit's names: which qubits a gate on several of them joins."""

from collections.abc import Callable
from itertools import combinations

Groups = list[tuple[int, ...]]


def _full(n_qubits: int, size: int) -> Groups:
    return list(combinations(range(n_qubits), size))


def _linear(n_qubits: int, size: int) -> Groups:
    return [tuple(range(first, first + size)) for first in range(n_qubits - size + 1)]


def _circular(n_qubits: int, size: int) -> Groups:
    linear = _linear(n_qubits, size)
    closing = range(n_qubits - size + 1, n_qubits) if size < n_qubits else ()
    ring = [tuple((first + k) % n_qubits for k in range(size)) for first in closing]
    return ring + linear


ENTANGLEMENTS: dict[str, Callable[[int, int], Groups]] = {
    "full": _full,
    "linear": _linear,
    "reverse_linear": lambda n_qubits, size: _linear(n_qubits, size)[::-1],
    "circular": _circular,
}
"""Patterns by name: from the number of qubits and the size of a group to the groups, in order.

``full``: all groups. ``linear``: neighbors, first ones first. ``reverse_linear``: neighbors, last
ones first. ``circular``: the groups that close the ring, then ``linear``; as many qubits as
``size`` are one group. Fewer qubits than ``size`` have no group. Groups of three and more close the
ring as in Qiskit 2; Qiskit 0.46 has only the first of the closing groups.
"""
