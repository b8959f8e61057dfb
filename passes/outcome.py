"""What a pass that can decline says: the model, whether it changed, and what was left alone for which reason."""

from dataclasses import dataclass

import onnx_ir as ir

from passes.plan import Refusal


@dataclass
class Outcome(ir.passes.PassResult):
    """Result of a pass, with the places where it did not fire.

    Attributes:
        refusals: what looked like the pass's business but was left alone, with the reason.

    """

    refusals: tuple[Refusal, ...] = ()
