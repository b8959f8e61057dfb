"""Recurrent layers: RNN, GRU, LSTM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Input, Row, integer, refuse, text

State: TypeAlias = tuple[Tensor, ...]
Activation: TypeAlias = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, Activation] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


@dataclass(frozen=True, slots=True)
class _Weights:
    """Recurrent and peephole weights of one direction."""

    recurrent: Tensor
    recurrent_bias: Tensor
    peephole: Tensor


Cell: TypeAlias = Callable[[Tensor, State, _Weights], State]


def _rnn_cell(activations: Sequence[Activation], node: ir.Node) -> Cell:
    (outer,) = activations

    def step(x: Tensor, state: State, weights: _Weights) -> State:
        return (outer(x + state[0] @ weights.recurrent.t() + weights.recurrent_bias),)

    return step


def _gru_cell(activations: Sequence[Activation], node: ir.Node) -> Cell:
    gate, outer = activations
    linear_first = bool(integer(node, "linear_before_reset"))

    def step(x: Tensor, state: State, weights: _Weights) -> State:
        (hidden,) = state
        of_update, of_reset, of_hidden = weights.recurrent.chunk(3)
        bias_update, bias_reset, bias_hidden = weights.recurrent_bias.chunk(3)
        x_update, x_reset, x_hidden = x.chunk(3, -1)
        update = gate(x_update + hidden @ of_update.t() + bias_update)
        reset = gate(x_reset + hidden @ of_reset.t() + bias_reset)
        if linear_first:
            candidate = outer(x_hidden + reset * (hidden @ of_hidden.t() + bias_hidden))
        else:
            candidate = outer(x_hidden + (reset * hidden) @ of_hidden.t() + bias_hidden)
        return ((1 - update) * candidate + update * hidden,)

    return step


def _lstm_cell(activations: Sequence[Activation], node: ir.Node) -> Cell:
    gate, inner, outer = activations

    def step(x: Tensor, state: State, weights: _Weights) -> State:
        hidden, cell = state
        entry, leave, forget, candidate = (x + hidden @ weights.recurrent.t() + weights.recurrent_bias).chunk(4, -1)
        see_entry, see_leave, see_forget = weights.peephole.chunk(3)
        entry, forget = gate(entry + see_entry * cell), gate(forget + see_forget * cell)
        cell = forget * cell + entry * inner(candidate)
        return gate(leave + see_leave * cell) * outer(cell), cell

    return step


def reverse_sequence(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the first ``lengths[b]`` steps of ``x`` (time, batch, ...), leaving the rest in place."""
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    counts = lengths.to(x.device, torch.int64)[None, :]
    places = torch.where(steps < counts, counts - 1 - steps, steps)
    return x.gather(0, places.reshape(*places.shape, *(1,) * (x.dim() - 2)).expand_as(x))


def _sweep(x: Tensor, state: State, cell: Cell, weights: _Weights, lengths: Tensor | None) -> tuple[Tensor, State]:
    """Run one direction over ``x`` (time, batch, gates); past its length a sequence keeps its state and gives zeros."""
    made = []
    for time, now in enumerate(x):
        fresh = cell(now, state, weights)
        if lengths is None:
            state = fresh
            made.append(state[0])
            continue
        alive = (time < lengths)[:, None]
        state = tuple(torch.where(alive, new, old) for new, old in zip(fresh, state, strict=True))
        made.append(torch.where(alive, fresh[0], torch.zeros_like(fresh[0])))
    return torch.stack(made), state


class _Layer:
    """A recurrent node: one cell per direction, swept over time."""

    def __init__(
        self, node: ir.Node, gates: int, states: int, names: tuple[str, ...], make_cell: Callable[..., Cell]
    ) -> None:
        for name in ("clip", "input_forget", "activation_alpha", "activation_beta"):
            if name in node.attributes and node.attributes[name].value:
                refuse(node, f"attribute {name} has no kernel here")
        direction = text(node, "direction", "forward")
        self._backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
        self._gates, self._states = gates, states
        self._batch_first = bool(integer(node, "layout"))
        listed = node.attributes.get_strings("activations", names * len(self._backward))
        functions = [name.lower() for name in listed]
        unknown = sorted(set(functions) - _ACTIVATIONS.keys())
        if unknown:
            refuse(node, f"activations {unknown} have no kernel here")
        per = len(names)
        self._cells = [
            make_cell([_ACTIVATIONS[name] for name in functions[k * per : (k + 1) * per]], node)
            for k in range(len(self._backward))
        ]

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        recurrent: Tensor,
        bias: Input = None,
        lengths: Input = None,
        *rest: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Run the node; ``rest`` are the initial states, then the peephole weights of an LSTM."""
        hidden, count = recurrent.shape[-1], len(self._cells)
        if self._batch_first:
            x = x.transpose(0, 1)
        if bias is None:
            bias = x.new_zeros(count, 2 * self._gates * hidden)
        peephole = rest[2] if len(rest) > 2 else None
        if peephole is None:
            peephole = x.new_zeros(count, 3 * hidden)
        starts = [self._start(rest, k, x, hidden) for k in range(self._states)]
        outputs, finals = [], []
        for k, (cell, backward) in enumerate(zip(self._cells, self._backward, strict=True)):
            in_bias, recurrent_bias = bias[k].chunk(2)
            weights = _Weights(recurrent[k], recurrent_bias, peephole[k])
            steps = (_turned(x, lengths) if backward else x) @ weight[k].t() + in_bias
            y, final = _sweep(steps, tuple(start[k] for start in starts), cell, weights, lengths)
            outputs.append(_turned(y, lengths) if backward else y)
            finals.append(final)
        last = [torch.stack([final[k] for final in finals]) for k in range(self._states)]
        y = torch.stack(outputs, 1)
        if self._batch_first:
            return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)
        return y, *last

    def _start(self, rest: Sequence[Tensor | None], which: int, x: Tensor, hidden: int) -> Tensor:
        given = rest[which] if which < len(rest) else None
        if given is None:
            return x.new_zeros(len(self._cells), x.shape[1], hidden)
        return given.transpose(0, 1) if self._batch_first else given


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    return x.flip(0) if lengths is None else reverse_sequence(x, lengths)


ROWS: tuple[Row, ...] = (
    ("RNN", (7, 14, 22), lambda node: _Layer(node, 1, 1, ("Tanh",), _rnn_cell)),
    ("GRU", (7, 14, 22), lambda node: _Layer(node, 3, 1, ("Sigmoid", "Tanh"), _gru_cell)),
    ("LSTM", (7, 14, 22), lambda node: _Layer(node, 4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm_cell)),
)
