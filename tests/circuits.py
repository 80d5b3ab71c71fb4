"""Random circuits for tests, by seed (`random_circuit`) or as a strategy (`circuits`).

Both draw from `make_circuit`, which takes the options. Every input feature is used; weights may not
be.
"""

import random
from functools import partial

import torch
from hypothesis import strategies as st

from captum_quantum import Angle, Circuit, Gate, Observable
from captum_quantum.circuit import GATE_TYPES, HermitianMatrix, PauliString, Projector

REAL_GATES = tuple(
    name
    for name, kind in GATE_TYPES.items()
    if all(primitive.is_real for primitive in kind.primitives(kind.n_wires or 3, False))
)
"""The gates whose matrices have no imaginary part."""


def random_circuit(seed, **options):
    """The circuit of a seed; options as in `make_circuit`."""
    return make_circuit(random.Random(seed), **options)


def circuits(**options):
    """A hypothesis strategy of circuits; options as in `make_circuit`."""
    return st.randoms(use_true_random=False).map(partial(make_circuit, **options))


def make_circuit(
    rng,
    *,
    encoding="anywhere",
    layered=False,
    n_qubits=(1, 10),
    n_inputs=(1, 4),
    n_weights=(1, 5),
    n_gates=None,
    names=tuple(GATE_TYPES),
    sources=("input", "weight", "constant"),
    letters=("IIXYZZ",),
    kinds=("pauli",),
):
    """Draws a circuit.

    Args:
        rng: A `random.Random`.
        encoding: Where inputs are: ``"anywhere"``, the angles of any gates; ``"first"``, each the
            angle of one RX or RY at the start of a wire, so that values are polynomials of them;
            ``"ry"``, angles of RY at the start, beside weights, so that with ``REAL_GATES`` all
            numbers are real; ``"amplitudes"``, the initial state.
        layered: Whether the gates come in layers, the same few names on many wires; then ``names``
            and ``n_gates`` do not matter.
        n_qubits, n_inputs, n_weights: The least and the greatest number.
        n_gates: The same of gates besides those of an encoding at the start; default 1 to 30, from
            7 qubits on 1 to 15.
        names: The gates to choose from; one at least must have one wire.
        sources: Where angles come from.
        letters: What Pauli words are drawn from: each circuit takes one of these strings.
        kinds: What terms of observables are drawn from: ``"pauli"``, ``"projector"``, or matrices:
            ``"diagonal"``, ``"real"``, ``"complex"``; each circuit takes one of these, or
            ``"mixed"``: any of them for each term.
    """
    n = rng.randint(*n_qubits)
    counts = {"input": rng.randint(*n_inputs), "weight": rng.randint(*n_weights), "constant": 1}
    start = []
    if encoding == "first":
        start = _first_rotations(rng, n, counts)
    elif encoding == "ry":
        start = _ry_rotations(rng, n, counts)
    elif encoding == "amplitudes":
        counts["input"] = 2**n
    body = [s for s in sources if counts[s] and (s != "input" or encoding == "anywhere")]
    angle = partial(_angle, rng, body or ["constant"], counts)
    if layered:
        gates = _layers(rng, n, angle)
    else:
        fitting = [name for name in names if (GATE_TYPES[name].n_wires or 1) <= n]
        most = 30 if n < 7 else 15
        gates = [_gate(rng, n, fitting, angle) for _ in range(rng.randint(*(n_gates or (1, most))))]
    if encoding == "anywhere":
        used = {a.index for g in gates for a in g.angles if a.source == "input"}
        for index in sorted(set(range(counts["input"])) - used):
            gates.insert(0, Gate("ry", (rng.randrange(n),), (Angle.of_input(index),)))
    return Circuit(
        n,
        (*start, *gates),
        _observables(rng, n, rng.choice(letters), rng.choice(kinds) if kinds[1:] else kinds[0]),
        counts["input"],
        counts["weight"],
        amplitude_encoding=encoding == "amplitudes",
    )


def _angle(rng, sources, counts):
    source = rng.choice(sources)
    if source == "constant":
        return Angle.constant(rng.uniform(-3, 3))
    return Angle(source, rng.randrange(counts[source]))


def _inverse(rng):
    return rng.randrange(5) == 4


def _gate(rng, n, names, angle, wires=None):
    kind = GATE_TYPES[rng.choice(names)]
    if wires is None:
        wires = rng.sample(range(n), kind.n_wires or rng.randint(1, min(n, 4)))
    angles = tuple(angle() for _ in range(kind.n_angles))
    return Gate(kind.name, tuple(wires), angles, _inverse(rng))


def _first_rotations(rng, n, counts):
    """One rotation of |0> on most wires; every input is on one of them."""
    wires = [wire for wire in range(n) if rng.randrange(10)] or [0]
    counts["input"] = n_inputs = min(counts["input"], len(wires))
    inputs = [*range(n_inputs), *(rng.randrange(n_inputs) for _ in wires[n_inputs:])]
    rng.shuffle(inputs)
    return [
        Gate(rng.choice(["rx", "ry"]), (wire,), (Angle.of_input(k),), _inverse(rng))
        for wire, k in zip(wires, inputs, strict=True)
    ]


def _ry_rotations(rng, n, counts):
    """Several on a wire, or none."""
    angles = [Angle.of_input(k) for k in range(counts["input"])]
    both = [source for source in ("input", "weight") if counts[source]]
    angles += [_angle(rng, both, counts) for _ in range(rng.randint(0, 2 * n) if both else 0)]
    return [Gate("ry", (rng.randrange(n),), (angle,), _inverse(rng)) for angle in angles]


def _layers(rng, n, angle):
    """Layers of gates on one qubit, and of gates on two at a distance."""
    # Sometimes entangled from the start: then no wire begins with gates on itself.
    gates = [Gate("cnot", (k, (k + 1) % n)) for k in range(n) if n > 1] if rng.randrange(2) else []
    single = rng.choice((["ry"], ["rx", "ry", "rz", "hadamard"]))
    double = rng.choice((["cnot"], ["cnot", "cz", "swap"], ["cnot", "crx", "rzz", "rxx"]))
    for _ in range(rng.randint(2, 3)):
        wires = rng.sample(range(n), rng.randint(1, n))
        gates += [_gate(rng, n, single, angle, (wire,)) for wire in wires]
        first, step = rng.randrange(n), rng.choice((1, 1, 2, 3))
        pairs = [(k % n, (k + step) % n) for k in range(first, first + rng.randint(1, n))]
        gates += [_gate(rng, n, double, angle, pair) for pair in pairs if len(set(pair)) == 2]
    return gates


def _observables(rng, n, letters, kind):
    def word():
        if kind == "pauli":
            return "".join(rng.choice(letters) for _ in range(n))
        return random_term(rng, n, kind, letters)

    def coefficient():
        return rng.choice((-1, 1)) * rng.randint(1, 64) / 64

    return tuple(
        Observable.of({word(): coefficient() for _ in range(rng.randint(1, 3))})
        for _ in range(rng.randint(1, 3))
    )


def random_term(rng, n, kind, letters="IXYZ"):
    """A term of an observable: of a kind of `make_circuit`."""
    if kind == "mixed":
        kind = rng.choice(("pauli", "projector", "diagonal", "real", "complex"))
    if kind == "pauli":
        return PauliString.parse("".join(rng.choice(letters) for _ in range(n)))
    wires = rng.sample(range(n), rng.randint(1, min(n, 3)))
    if kind == "projector":
        return Projector("".join(rng.choice("01") for _ in wires), wires)
    size = 2 ** len(wires)
    parts = [[[rng.uniform(-1, 1) for _ in range(size)] for _ in range(size)] for _ in range(2)]
    matrix = torch.complex(*torch.tensor(parts, dtype=torch.float64))
    if kind == "diagonal":
        matrix = torch.diag(torch.diag(matrix.real))
    elif kind == "real":
        matrix = matrix.real
    return HermitianMatrix((matrix + matrix.mH) / 4, wires)


def arguments(circuit, batch, seed=0, dtype=torch.float64):
    """Random inputs and weights.

    Returns:
        Inputs ``(batch, n_inputs)`` and weights ``(n_weights,)``, between -3 and 3.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, circuit.n_inputs), (circuit.n_weights,))
    return [6 * torch.rand(shape, generator=generator, dtype=dtype) - 3 for shape in shapes]


def norms(circuit):
    """Of each observable the sum of its terms' norms, or more: errors are relative to it."""

    def norm(term):
        matrix = torch.tensor(getattr(term, "matrix", [[1.0]]))
        return abs(term.coefficient) * max(1.0, float(torch.linalg.matrix_norm(matrix)))

    return [sum(map(norm, o.terms)) for o in circuit.observables]
