from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attention_layers import donor_of, geometry_of, layer_of, tokens_of
from torch import Tensor, nn

from effvit.traffic import traffic_bytes, traffic_of

FLOAT_BYTES = 4


class Doing(nn.Module):
    def __init__(self, work: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.work = work

    def forward(self, x: Tensor) -> Tensor:
        return self.work(x)


def test_a_linear_layer_reads_weights_and_input_and_writes_output() -> None:
    # weight 2 x 3, bias 2, input 4 x 3, output 4 x 2
    assert traffic_bytes(nn.Linear(3, 2), torch.zeros(4, 3)) == (6 + 2 + 12 + 8) * FLOAT_BYTES


@pytest.mark.parametrize(
    ("work", "numbers"),
    [
        (lambda x: x.reshape(3, 4).transpose(0, 1)[1:], 0),
        (torch.detach, 0),
        (lambda x: x.transpose(0, 1).reshape(12), 12 + 12),  # strides do not fit: a copy, then a view of it
        (lambda x: x[:, :1].expand(2, 6).clone(), 2 + 12),
        (lambda x: torch.cat([x, x]), 12 + 12 + 24),
        (lambda x: x.mul_(2), 12 + 12),
        (lambda x: (x + 1).relu_(), 2 * (12 + 12)),
        (lambda x: x.max(dim=0).values, 12 + 6 + 2 * 6),  # indices of 8 bytes each
    ],
    ids=["views", "detach", "copy", "expanded", "list", "in place", "both", "several outputs"],
)
def test_operators_read_inputs_and_write_outputs_and_views_move_nothing(
    work: Callable[[Tensor], Tensor], numbers: int
) -> None:
    assert traffic_bytes(Doing(work), torch.zeros(2, 6)) == numbers * FLOAT_BYTES


def test_half_precision_moves_half() -> None:
    assert traffic_bytes(Doing(torch.exp), torch.zeros(5, dtype=torch.float16)) == 2 * 5 * 2


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_exact_attention_moves_what_is_counted_by_hand(precision: torch.dtype) -> None:
    geometry = geometry_of((4, 4))  # 17 tokens of width 24, 2 heads
    donor = donor_of(geometry, norm_layer=None).to(precision)
    qkv = (3 * 24 * 24 + 3 * 24) + 17 * 24 + 17 * 3 * 24
    attention = 3 * 17 * 24 + 17 * 24 + 2 * 17  # q, k, v; output, and the log-sum-exp of every row and head
    output = (24 * 24 + 24) + 17 * 24 + 17 * 24
    numbers = qkv + attention + output
    assert traffic_bytes(donor, tokens_of(geometry, batch=1).to(precision)) == numbers * precision.itemsize


def test_linformer_moves_what_is_counted_by_hand() -> None:
    geometry = geometry_of((4, 4))
    # As many keys as tokens: too many to leave the tokens unprojected.
    layer = layer_of("linformer", geometry, donor_of(geometry, norm_layer=None), pool=4)
    # PyTorch multiplies a batch by a shared matrix from the other side, then copies the product back.
    compression = 16 * 16 + 16 * 24 + 16 * 24 + 2 * 16 * 24
    together = 2 * (1 + 16) * 24  # read and written, class token first
    keys_values = (2 * 24 * 24 + 2 * 24) + 17 * 24 + 17 * 2 * 24
    queries = (24 * 24 + 24) + 17 * 24 + 17 * 24
    attention = 17 * 24 + 2 * 17 * 24 + 17 * 24 + 2 * 17
    output = (24 * 24 + 24) + 17 * 24 + 17 * 24
    numbers = compression + together + keys_values + queries + attention + output
    assert traffic_bytes(layer, tokens_of(geometry, batch=1)) == numbers * FLOAT_BYTES


@pytest.mark.parametrize(
    ("work", "operators", "numbers"),
    [
        (lambda x: ((x + 1) * 2).exp(), 3, 2 * 12),  # each is gone once the next is made of it
        (lambda x: [made := x + 1, made * 2, made * 3][1], 3, 3 * 12),  # the list keeps all of them
        (lambda x: (x + 1).mul_(2), 2, 12),
        (lambda x: x.mul_(2), 1, 0),
        (lambda x: (x + 1).reshape(3, 4)[1:] * 2, 2, 12 + 8),  # a view keeps all of what it is a view of
        (lambda x: x.transpose(0, 1)[1:], 0, 0),
    ],
    ids=["chain", "kept", "in place", "input in place", "view", "views alone"],
)
def test_what_is_alive_at_once_is_what_something_refers_to(
    work: Callable[[Tensor], Tensor], operators: int, numbers: int
) -> None:
    found = traffic_of(Doing(work), torch.zeros(2, 6))
    assert (found.operators, found.peak_bytes) == (operators, numbers * FLOAT_BYTES)
