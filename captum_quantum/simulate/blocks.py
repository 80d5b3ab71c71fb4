"""Blocks: gates on few wires whose product is one matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Block:
    """A dense step that still takes gates.

    Attributes:
        wires (list[int]): Its wires.
        factors (list[int]): Positions of its factors, in the order of application.
    """

    wires: list[int]
    factors: list[int] = field(default_factory=list)


def in_rounds(blocks: Sequence[Block]) -> list[list[Block]]:
    """Groups blocks so that those of a round are on different wires, as early as they can be."""
    rounds: list[list[Block]] = []
    depth: dict[int, int] = {}  # in how many rounds a wire is so far
    for block in blocks:
        first = max(depth.get(wire, 0) for wire in block.wires)
        depth.update(dict.fromkeys(block.wires, first + 1))
        rounds += [[] for _ in range(first + 1 - len(rounds))]
        rounds[first].append(block)
    return rounds


def side_by_side(
    blocks: Sequence[Block], layout: Sequence[int], front: int, most: int
) -> list[Block]:
    """Puts small blocks on different wires together.

    Blocks behind the first ``front`` wires are kept apart from others, if that costs no step.

    Args:
        blocks (Sequence[Block]): The blocks.
        layout (Sequence[int]): The wires in the order of the rows' bits.
        front (int): Number of wires that are kept in front of a dense step's.
        most (int): The most wires of a step.
    """
    ordered = sorted(blocks, key=lambda block: min(map(layout.index, block.wires)))

    def is_behind(block: Block) -> bool:
        return all(layout.index(wire) >= front for wire in block.wires)

    behind = [block for block in ordered if is_behind(block)]
    others = [block for block in ordered if not is_behind(block)]
    apart, packed = _pack(behind, most) + _pack(others, most), _pack(behind + others, most)
    return apart if len(apart) == len(packed) else packed


def _pack(blocks: Sequence[Block], most: int) -> list[Block]:
    """Puts neighbors together; most wires at the end, where products are narrow."""
    packed: list[Block] = []
    wires_left = sum(len(block.wires) for block in blocks)
    size = _next_size(wires_left, most)
    for block in reversed(blocks):
        if packed and len(packed[-1].wires) + len(block.wires) <= size:
            packed[-1].wires = block.wires + packed[-1].wires
            packed[-1].factors = block.factors + packed[-1].factors
            continue
        if packed:
            wires_left -= len(packed[-1].wires)
            size = _next_size(wires_left, most)
        packed.append(Block(list(block.wires), list(block.factors)))
    return packed[::-1]


def _next_size(wires: int, most: int) -> int:
    """The wires of the next of as few steps as possible, all about the same size."""
    steps = -(-wires // most)
    return -(-wires // steps) if wires else 0
