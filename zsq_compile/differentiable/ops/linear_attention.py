"""Attention with a recurrent state instead of a softmax, and the causal convolution that stands in front of it."""

import math

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Input, Kernel, Row, integer, number, text


def _linear_attention(node: ir.Node) -> Kernel:
    heads, shared = integer(node, "q_num_heads"), integer(node, "kv_num_heads")
    given, rule = number(node, "scale"), text(node, "update_rule", "gated_delta")
    gated, corrected = "gated" in rule, "delta" in rule

    def run(
        query: Tensor, key: Tensor, value: Tensor, past: Input = None, decay: Input = None, beta: Input = None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (_heads(x, n) for x, n in ((query, heads), (key, shared), (value, shared)))
        state = q.new_zeros(len(q), shared, k.shape[-1], v.shape[-1]) if past is None else _at_least_float32(past)
        scale = given or 1.0 / math.sqrt(q.shape[-1])
        rows = []
        for turn in range(q.shape[2]):
            keys, values = k[:, :, turn], v[:, :, turn]
            if gated and decay is not None:
                state = state * _heads(decay, shared)[:, :, turn, :, None].exp()
            if corrected and beta is not None:
                seen = torch.einsum("bhkv,bhk->bhv", state, keys)
                values = _heads(beta, beta.shape[-1])[:, :, turn] * (values - seen)
            state = state + keys[..., None] * values[..., None, :]
            read = state.repeat_interleave(heads // shared, 1)
            rows.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, :, turn], read))
        made = torch.stack(rows, 1).flatten(2)
        return made.to(query.dtype), state.to(query.dtype if past is None else past.dtype)

    return run


def _heads(x: Tensor, count: int) -> Tensor:
    """(batch, length, count * size) to (batch, count, length, size), in float32 or better."""
    return _at_least_float32(x).reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _causal_convolution(node: ir.Node) -> Kernel:
    activated = text(node, "activation", "none") in ("silu", "swish")

    def run(x: Tensor, weight: Tensor, bias: Input = None, past: Input = None) -> tuple[Tensor, Tensor]:
        kept = weight.shape[-1] - 1
        state = x.new_zeros(*x.shape[:2], kept) if past is None else past
        padded = torch.cat([state, x], 2)
        y = functional.conv1d(padded, weight, bias, groups=x.shape[1])
        return functional.silu(y) if activated else y, padded[:, :, padded.shape[2] - kept :]

    return run


ROWS: tuple[Row, ...] = (
    ("LinearAttention", (27,), _linear_attention),
    ("CausalConvWithState", (27,), _causal_convolution),
)
