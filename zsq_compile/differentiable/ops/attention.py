"""Attention and other operators of transformers."""

import math

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Input, Kernel, Row, integer, number


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """Turn (batch, sequence, heads * size) into (batch, heads, sequence, size)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


class _Bias:
    """Masks of attention scores: the given mask, causality, a sliding window, padding of the cache."""

    def __init__(self, node: ir.Node) -> None:
        self._causal = bool(integer(node, "is_causal"))
        self._left = integer(node, "left_window_size", -1)
        self._right = integer(node, "right_window_size", -1)

    def add(self, scores: Tensor, mask: Tensor | None, past: int, lengths: Tensor | None) -> Tensor:
        """Mask ``scores`` (batch, heads, queries, keys)."""
        queries, keys = scores.shape[-2:]
        if mask is not None:
            missing = keys - mask.shape[-1]
            if missing > 0:
                closed = mask.new_full((*mask.shape[:-1], missing), False if mask.dtype == torch.bool else -math.inf)
                mask = torch.cat((mask, closed), -1)
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        column = torch.arange(keys, device=scores.device)
        row = torch.arange(queries, device=scores.device)[:, None] + past
        if lengths is not None:
            counts = lengths.to(scores.device).reshape(-1, 1, 1, 1)
            row = row + counts - queries
            scores = scores.masked_fill(column >= counts, -math.inf)
        if self._causal:
            scores = scores.masked_fill(column > row, -math.inf)
        if self._left >= 0:
            scores = scores.masked_fill(column < row - self._left, -math.inf)
        return scores if self._right < 0 else scores.masked_fill(column > row + self._right, -math.inf)


def _guarded_softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; a row without any open key gives zeros instead of NaN."""
    closed = (scores == -math.inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(closed, 0.0), -1).masked_fill(closed, 0.0)


def _attention(node: ir.Node) -> Kernel:
    bias, softcap = _Bias(node), number(node, "softcap")
    factor = number(node, "scale") if "scale" in node.attributes else None
    query_heads, key_heads = integer(node, "q_num_heads"), integer(node, "kv_num_heads")
    report = integer(node, "qk_matmul_output_mode")

    def run(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Input = None,
        past_key: Input = None,
        past_value: Input = None,
        lengths: Input = None,
    ) -> tuple[Tensor, ...]:
        flat = query.dim() == 3
        if flat:
            query = _split_heads(query, query_heads)
            key, value = _split_heads(key, key_heads), _split_heads(value, key_heads)
        past = 0
        if past_key is not None and past_value is not None:
            past = past_key.shape[2]
            key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
        present = (key, value)
        if query.shape[1] != key.shape[1]:
            repeat = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        root = math.sqrt(1 / math.sqrt(query.shape[-1]) if factor is None else factor)
        stages = [(query * root) @ (key * root).transpose(-1, -2)]
        stages.append(torch.tanh(stages[-1] / softcap) * softcap if softcap else stages[-1])
        stages.append(bias.add(stages[-1], mask, past, lengths))
        stages.append(_guarded_softmax(stages[-1]))
        y = stages[-1].to(value.dtype) @ value
        if flat:
            y = y.transpose(1, 2).flatten(2)
        return y, *present, stages[report]

    return run


def _rotary_embedding(node: ir.Node) -> Kernel:
    interleaved, heads = integer(node, "interleaved"), integer(node, "num_heads")
    width = integer(node, "rotary_embedding_dim")

    def run(x: Tensor, cosines: Tensor, sines: Tensor, positions: Input = None) -> Tensor:
        shape = x.shape
        # (batch, sequence, heads, size), whichever of the two layouts came in
        x = x.transpose(1, 2) if x.dim() == 4 else x.reshape(*shape[:2], heads, -1)
        if positions is not None:
            cosines, sines = cosines[positions], sines[positions]
        cosines, sines = cosines.unsqueeze(2), sines.unsqueeze(2)
        turned, kept = x[..., : width or x.shape[-1]], x[..., width or x.shape[-1] :]
        real, imaginary = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
        parts = (cosines * real - sines * imaginary, sines * real + cosines * imaginary)
        turned = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
        y = torch.cat((turned, kept), -1)
        return y.transpose(1, 2) if len(shape) == 4 else y.reshape(shape)

    return run


def _swiglu(node: ir.Node) -> Kernel:
    alpha = number(node, "alpha", 1.0)
    return lambda gate, value: gate * torch.sigmoid(alpha * gate) * value


ROWS: tuple[Row, ...] = (
    ("Attention", (23, 24, 25), _attention),
    ("RotaryEmbedding", (23,), _rotary_embedding),
    ("SwiGLU", (28,), _swiglu),
)
