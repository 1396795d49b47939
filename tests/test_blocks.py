"""Batches move between devices as one."""

from dataclasses import fields

import torch

from dglrec.blocks import Block, LayerBlocks, RelationBlock


def block(device: str) -> Block:
    return Block(
        offsets=torch.tensor([0, 2, 3], device=device),
        neighbours=torch.tensor([0, 1, 1], device=device),
        residuals=torch.tensor([0.5, -0.5, 1.0], device=device),
        degrees=torch.tensor([2.0, 1.0], device=device),
        source_degrees=torch.tensor([1.0, 2.0], device=device),
        turned=(torch.tensor([0, 1, 3], device=device), torch.tensor([0, 0, 1], device=device)),
        present=torch.tensor([1.0, 0.0, 1.0], device=device),
        present_counts=torch.tensor([1.0, 1.0], device=device),
        fanout=None,
    )


def test_a_block_counts_its_destinations() -> None:
    assert block("cpu").num_destinations == 2


def test_every_tensor_of_nested_blocks_moves() -> None:
    moved = LayerBlocks(block("cpu"), block("cpu")).to(torch.device("meta"))
    for side in (moved.to_users, moved.to_items):
        values = [getattr(side, field.name) for field in fields(side) if field.name != "turned"]
        tensors = [one for one in (*values, *side.turned) if isinstance(one, torch.Tensor)]
        assert {one.device.type for one in tensors} == {"meta"} and len(tensors) == 9
        assert side.neighbours.shape == (3,)


def test_blocks_of_relations_move_with_their_layer() -> None:
    other = RelationBlock("trusts", "user", "user", block("cpu"))
    moved = LayerBlocks(block("cpu"), block("cpu"), (other,)).to(torch.device("meta"))
    assert moved.others[0].name == "trusts"
    assert moved.others[0].block.neighbours.device.type == "meta"
