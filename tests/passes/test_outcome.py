import importlib
import inspect
import pkgutil

import onnx_ir as ir
import pytest

import passes
from tests import models


def rewriting_passes() -> list[type[ir.passes.InPlacePass]]:
    """Every pass of the package that can be made without arguments."""
    found = set()
    for module in pkgutil.walk_packages(passes.__path__, "passes."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = kind.__module__.startswith("passes.") and issubclass(kind, ir.passes.InPlacePass)
            if own and all(p.default is not p.empty for p in inspect.signature(kind).parameters.values()):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def test_the_package_has_passes():
    assert {"FoldBatchNorm", "FoldPad", "FoldConstants", "EqualizeChannels"} <= {
        kind.__name__ for kind in rewriting_passes()
    }


@pytest.mark.parametrize("kind", rewriting_passes(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("make", [models.conv_bn_relu, models.residual, models.depthwise, models.branches])
def test_a_pass_keeps_the_function_and_the_names_of_the_user_and_settles_at_once(kind, make):
    before = make()
    model = ir.from_proto(before)
    kind()(model)
    assert not kind()(model).modified
    assert [value.name for value in model.graph.inputs] == [value.name for value in before.graph.input]
    assert [value.name for value in model.graph.outputs] == [value.name for value in before.graph.output]
    assert models.largest_difference(before, model) < 2e-6


@pytest.mark.parametrize("kind", rewriting_passes(), ids=lambda kind: kind.__name__)
def test_namesakes_of_another_domain_are_left_alone(kind):
    model = ir.from_proto(models.residual())
    for node in model.graph:
        node.domain = "elsewhere"
    model.opset_imports["elsewhere"] = 1
    names = [(node.op_type, node.name, len(node.inputs)) for node in model.graph]
    kind()(model)
    assert [(node.op_type, node.name, len(node.inputs)) for node in model.graph] == names
