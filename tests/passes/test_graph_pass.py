import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir
import pytest

import passes
from backends.catalog import load_target
from backends.target import Alignment, Blockwise
from passes.emit.align_channels import AlignChannels
from passes.emit.block_matmul import BlockMatMul
from passes.emit.keep_float import KeepFloat
from passes.emit.pack_digits import PackDigits
from passes.emit.pack_weights import PackWeights
from passes.emit.widen_layers import WidenLayers
from passes.graph_pass import NodePass
from passes.plan import QuantizationPlan
from passes.qdq_names import codes_name
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.place_quantizers import place_quantizers
from passes.quantize.write_in_parts import WriteInParts
from tests import models
from tests.quantizing import inserted, prepare, with_scales

CPU = load_target("ort_cpu")
TARGET = replace(CPU, blockwise=Blockwise(block_size=16, least_weights=1, most_rows=1))


def upsampled() -> onnx.ModelProto:
    return models.parse(
        """g (float[N,3,5,7] x) => (float[N,4,10,14] y)
        <float[3,4,2,2] w0, float[4] b0, float[4,1,1] s, float[4,4,1,1] w1>
        { [up] c = ConvTranspose<strides=[2,2]>(x, w0, b0) [slope] p = PRelu(c, s) [mish] m = Mish(p)
          [conv] d = Conv(m, w1) [sin] y = Sin(d) }"""
    )


MODELS = [models.conv_bn_relu, models.residual, models.depthwise, models.branches, upsampled]
EXACT = 2e-6
ROUNDED = 0.1  # what 8-bit activations, or their absence, may change, of the output's magnitude


@dataclass(frozen=True)
class Case:
    """How a pass with arguments is made from a plan, and the graph that it is for."""

    make: Callable[[QuantizationPlan], ir.passes.InPlacePass]
    bits: int = 4
    inserted: bool = True
    tolerance: float = EXACT
    by_name: bool = False  # it changes what it is given by name, whatever the operators
    model: Callable[[], onnx.ModelProto] = models.residual  # in which it finds what it rewrites


CASES = {
    "AlignChannels": Case(lambda plan: AlignChannels(Alignment(depthwise=16, inputs=4, outputs=16))),
    "BlockMatMul": Case(lambda plan: BlockMatMul(frozenset(weights(plan)), TARGET), tolerance=ROUNDED),
    "InsertQdq": Case(InsertQdq, bits=8, inserted=False, tolerance=ROUNDED, by_name=True),
    "KeepFloat": Case(lambda plan: KeepFloat(TARGET, frozenset(), others=False), tolerance=ROUNDED),
    "PackDigits": Case(lambda plan: PackDigits(weights(plan)), by_name=True),
    "PackWeights": Case(lambda plan: PackWeights(frozenset(weights(plan))), by_name=True),
    "WidenLayers": Case(lambda plan: WidenLayers(frozenset(site.node for site in plan.weights)), tolerance=ROUNDED),
    "WriteInParts": Case(lambda plan: WriteInParts(TARGET), inserted=False, model=upsampled),
}


def weights(plan: QuantizationPlan) -> dict[str, int]:
    return {codes_name(site.initializer): site.number_format.bits for site in plan.weights}


def all_passes() -> list[type[ir.passes.InPlacePass]]:
    found = set()
    for module in pkgutil.walk_packages(passes.__path__, "passes."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = kind.__module__.startswith("passes.") and issubclass(kind, ir.passes.InPlacePass)
            if own and not inspect.isabstract(kind):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def prepared(kind: type[ir.passes.InPlacePass], proto: onnx.ModelProto) -> tuple[ir.Model, ir.passes.InPlacePass]:
    """A model that the pass is for, and the pass."""
    case = CASES.get(kind.__name__)
    if case is None:
        return ir.from_proto(proto), kind()
    model = prepare(proto)
    plan = place_quantizers(model, TARGET, bits=case.bits, edge_bits=case.bits)
    plan = with_scales(plan, model, models.random_feeds(proto))
    return inserted(model, plan) if case.inserted else model, case.make(plan)


def test_every_pass_with_arguments_has_a_case():
    needing = {
        kind.__name__
        for kind in all_passes()
        if any(p.default is p.empty for p in inspect.signature(kind).parameters.values())
    }
    assert needing == CASES.keys()
    assert len(all_passes()) > 20


@pytest.mark.parametrize("kind", all_passes(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("make", MODELS)
def test_a_pass_keeps_the_function_and_the_names_of_the_user_and_settles_at_once(kind, make):
    model, rewriting = prepared(kind, make())
    before = ir.to_proto(model)
    rewriting(model)
    assert not rewriting(model).modified
    assert [value.name for value in model.graph.inputs] == [value.name for value in before.graph.input]
    assert [value.name for value in model.graph.outputs] == [value.name for value in before.graph.output]
    tolerance = CASES[kind.__name__].tolerance if kind.__name__ in CASES else EXACT
    assert models.largest_difference(before, model) < tolerance


@pytest.mark.parametrize("name", [name for name in CASES if name != "PackDigits"])  # whose weights must be larger
def test_a_pass_with_arguments_fires(name):
    kind = next(kind for kind in all_passes() if kind.__name__ == name)
    model, rewriting = prepared(kind, CASES[name].model())
    assert rewriting(model).modified


@pytest.mark.parametrize(
    "kind", [kind for kind in all_passes() if kind.__name__ not in CASES or not CASES[kind.__name__].by_name]
)
def test_namesakes_of_another_domain_are_left_alone(kind):
    model, rewriting = prepared(kind, CASES[kind.__name__].model() if kind.__name__ in CASES else models.residual())
    for node in model.graph:
        node.domain = "elsewhere"
    model.opset_imports["elsewhere"] = 1
    names = [(node.op_type, node.name, len(node.inputs)) for node in model.graph]
    rewriting(model)
    assert [(node.op_type, node.name, len(node.inputs)) for node in model.graph] == names


def lose_a_producer(graph: ir.Graph, node: ir.Node) -> None:
    node.replace_input_with(0, ir.Value(name="nowhere"))


def reorder(graph: ir.Graph, node: ir.Node) -> None:
    graph.remove(node)
    graph.insert_before(graph[0], node)


def repeat_a_name(graph: ir.Graph, node: ir.Node) -> None:
    node.outputs[0].name = graph.inputs[0].name


def lose_a_name(graph: ir.Graph, node: ir.Node) -> None:
    node.outputs[0].name = None


@pytest.mark.parametrize("breaking", [lose_a_producer, reorder, repeat_a_name, lose_a_name])
def test_a_pass_that_breaks_the_graph_is_named(breaking):
    class Careless(NodePass):
        op_types = ("Relu",)

        def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
            breaking(graph, node)
            return True

    with pytest.raises(ir.passes.PostconditionError, match="Careless"):
        Careless()(ir.from_proto(models.conv_bn_relu()))
