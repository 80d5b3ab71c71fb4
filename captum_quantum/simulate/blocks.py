"""Blocks of gates on few wires, and how they are put together to dense steps."""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Block:
    """A dense step that still takes gates."""

    wires: list[int]
    factors: list[int] = field(default_factory=list)


def side_by_side(blocks: list[Block], layout: list[int], front: int, most: int) -> list[Block]:
    """Packs neighbours; those behind the front apart from others, if that costs no step."""
    blocks = sorted(blocks, key=lambda block: min(map(layout.index, block.wires)))
    first = [block for block in blocks if _is_behind(block, layout, front)]
    later = [block for block in blocks if not _is_behind(block, layout, front)]
    apart, packed = _pack(first, most) + _pack(later, most), _pack(first + later, most)
    return apart if len(apart) == len(packed) else packed


def _is_behind(block: Block, layout: list[int], front: int) -> bool:
    return all(layout.index(wire) >= front for wire in block.wires)


def _pack(blocks: list[Block], most: int) -> list[Block]:
    """Puts neighbours together; most wires at the end, where products are narrow."""
    packed: list[Block] = []
    wires_left = sum(len(block.wires) for block in blocks)
    room = _room(wires_left, most)
    for block in reversed(blocks):
        if packed and len(packed[-1].wires) + len(block.wires) <= room:
            packed[-1].wires = block.wires + packed[-1].wires
            packed[-1].factors = block.factors + packed[-1].factors
            continue
        if packed:
            wires_left -= len(packed[-1].wires)
            room = _room(wires_left, most)
        packed.append(Block(list(block.wires), list(block.factors)))
    return packed[::-1]


def _room(wires: int, most: int) -> int:
    """The size of the next of as few steps as possible, all about the same."""
    steps = -(-wires // most)
    return -(-wires // steps) if wires else 0
