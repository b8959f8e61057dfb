"""Networks are folded by FoldBatchNorm; what is found again must be what their nodes said before."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import BatchNorm, harvest_batchnorm
from passes.batchnorm.match_checkpoint import match_checkpoint
from tests import models

Tensors = dict[str, NDArray[np.float32]]


def tensors_of(proto: onnx.ModelProto) -> Tensors:
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    return {name: array for name, array in arrays.items() if array.ndim and array.dtype == np.float32}


def shuffled(tensors: Tensors, seed: int = 0) -> Tensors:
    """The same tensors under names that tell nothing, in another order."""
    order = np.random.default_rng(seed).permutation(len(tensors))
    arrays = list(tensors.values())
    return {f"p{place}": arrays[index] for place, index in enumerate(order)}


def folded(proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    assert not FoldBatchNorm().call(model).refusals
    return model


def changed(proto: onnx.ModelProto, name: str, array: NDArray[np.generic]) -> None:
    for one in proto.graph.initializer:
        if one.name == name:
            one.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
            return
    raise AssertionError(name)


def assert_same(found: BatchNorm, wanted: BatchNorm, *, rtol: float = 0.0) -> None:
    for name in ("scale", "shift", "mean", "variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=rtol, atol=0.0, err_msg=name)
    assert found.epsilon == pytest.approx(wanted.epsilon, rel=1e-3)
    assert (found.layer, found.output) == (wanted.layer, wanted.output)


@pytest.mark.parametrize("build", [models.residual, models.depthwise, models.conv_bn_relu])
@pytest.mark.parametrize("rename", [dict, shuffled], ids=["named", "shuffled"])
def test_every_folded_batchnorm_is_found_whatever_the_names_are(build, rename):
    proto = build()
    wanted = harvest_batchnorm(ir.from_proto(proto)).entries
    recovered = match_checkpoint(folded(proto), rename(tensors_of(proto)))
    assert len(recovered.found) == len(wanted) > 0
    for one, entry in zip(recovered.found, wanted, strict=True):
        assert_same(one.former, entry)


def test_layers_without_one_are_named_with_the_reason():
    proto = models.residual()
    (refusal,) = match_checkpoint(folded(proto), tensors_of(proto)).refusals
    assert (refusal.where, refusal.op_type) == ("gemm", "Gemm")
    assert "'w3' as it was saved" in refusal.reason


def test_filters_of_zeros_and_factors_of_zero_are_no_obstacle():
    proto = models.residual()
    tensors = tensors_of(proto)
    weight, scale, variance, mean = (tensors[name].copy() for name in ("w1", "scale1", "variance1", "mean1"))
    weight[[2, 5]] = 0.0
    variance[[2, 5]], mean[[2, 5]] = 0.0, 0.0
    scale[3], scale[4] = 0.0, -1.3
    for name, array in {"w1": weight, "scale1": scale, "variance1": variance, "mean1": mean}.items():
        changed(proto, name, array)
    wanted = harvest_batchnorm(ir.from_proto(proto)).entries
    recovered = match_checkpoint(folded(proto), shuffled(tensors_of(proto)))
    assert [one.former.layer for one in recovered.found] == ["conv0", "conv1", "conv2"]
    assert_same(recovered.found[1].former, wanted[1])
    np.testing.assert_array_equal(recovered.found[1].former.dead, wanted[1].dead)
    assert recovered.found[1].former.dead.tolist() == [False, False, True, False, False, True, False, False]


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_a_checkpoint_in_half_precision_will_do(dtype):
    proto = models.residual()
    wanted = harvest_batchnorm(ir.from_proto(proto)).entries

    def rounded(array):
        if dtype == np.float16:
            return array.astype(np.float16).astype(np.float32)
        bits = np.ascontiguousarray(array).view(np.uint32)
        return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)

    recovered = match_checkpoint(folded(proto), {name: rounded(one) for name, one in tensors_of(proto).items()})
    assert len(recovered.found) == 3
    for one, entry in zip(recovered.found, wanted, strict=True):
        for name in ("scale", "shift", "mean", "variance"):
            np.testing.assert_allclose(getattr(one.former, name), getattr(entry, name), rtol=2**-8)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 2.5e-2])
def test_epsilon_is_found_with_it(epsilon):
    proto = models.residual()
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(onnx.helper.make_attribute("epsilon", epsilon))
    recovered = match_checkpoint(folded(proto), shuffled(tensors_of(proto)))
    assert len(recovered.found) == 3
    for one in recovered.found:
        assert one.former.epsilon == pytest.approx(epsilon, rel=1e-3)


def test_among_near_copies_the_right_one_is_taken():
    proto = models.residual()
    rng = np.random.default_rng(1)
    tensors = tensors_of(proto)
    average = {f"ema.{name}": one * (1 + 1e-3 * rng.standard_normal(one.shape)) for name, one in tensors.items()}
    wanted = harvest_batchnorm(ir.from_proto(proto)).entries
    found = match_checkpoint(folded(proto), {**average, **tensors}).found
    assert len(found) == 3
    for one, entry in zip(found, wanted, strict=True):
        assert_same(one.former, entry)


def test_another_network_of_the_same_shape_is_found_nowhere():
    recovered = match_checkpoint(folded(models.residual()), tensors_of(models.residual(seed=1)))
    assert not recovered.found
    assert len(recovered.refusals) == 4
    assert "the nearest" in recovered.refusals[1].reason
    assert "no tensor of its shape" in match_checkpoint(folded(models.residual()), {}).refusals[0].reason


def test_weights_without_their_batchnorm_are_named():
    proto = models.residual()
    tensors = {name: one for name, one in tensors_of(proto).items() if name != "variance2"}
    recovered = match_checkpoint(folded(proto), tensors)
    assert [one.former.layer for one in recovered.found] == ["conv0", "conv1"]
    assert "'w2' times a factor per output channel, but no four vectors of 8" in recovered.refusals[0].reason


def test_without_gamma_and_beta_they_are_one_and_zero():
    proto = models.residual()
    changed(proto, "scale1", np.ones(8))
    changed(proto, "shift1", np.zeros(8))
    tensors = {name: one for name, one in tensors_of(proto).items() if name not in ("scale1", "shift1")}
    found = {one.former.layer: one.former for one in match_checkpoint(folded(proto), tensors).found}
    assert_same(found["conv1"], harvest_batchnorm(ir.from_proto(proto)).entries[1])


MATRIX = """
dense (float[N,6] x) => (float[N,6] y)
<float[6,6] w, float[6] b, float[6] scale, float[6] shift, float[6] mean, float[6] variance>
{{
    [dense] c = {layer}
    [bn] y = BatchNormalization(c, scale, shift, mean, variance)
}}
"""


@pytest.mark.parametrize("layer", ["Gemm(x, w, b)", "Gemm<transB=1>(x, w, b)"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_may_lie_transposed(layer, transposed):
    proto = models.parse(MATRIX.format(layer=layer))
    tensors = tensors_of(proto)
    tensors["w"] = tensors["w"].T if transposed else tensors["w"]
    (one,) = match_checkpoint(folded(proto), shuffled(tensors)).found
    assert_same(one.former, harvest_batchnorm(ir.from_proto(proto)).entries[0])


@pytest.mark.parametrize("behind", ["[mul] c = MatMul(x, w)\n[add] y = Add(c, b)", "[mul] y = MatMul(x, w)"])
def test_the_bias_of_a_matmul_may_stand_behind_it(behind):
    """No pass of ours folds into a MatMul, but other tools do: by hand here."""
    rng = np.random.default_rng(3)
    weight, (scale, variance) = rng.standard_normal((6, 5)), rng.uniform(0.5, 2.0, (2, 5))
    mean = rng.standard_normal(5)
    ratio = scale / np.sqrt(variance + 1e-5)
    shift = rng.standard_normal(5) if "Add" in behind else mean * ratio
    model = models.graph(
        f"g (float[N,3,6] x) => (float[N,3,5] y) <float[6,5] w, float[5] b> {{ {behind} }}",
        weights={"w": weight * ratio, "b": shift - mean * ratio},
    )
    tensors = {"a": weight.T, "b": scale, "c": shift, "d": mean, "e": variance}
    (one,) = match_checkpoint(model, tensors).found
    assert one.former.output == "y"
    np.testing.assert_allclose(one.former.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(one.former.shift, shift, rtol=1e-6)


def test_a_grouped_transposed_convolution():
    proto = models.parse(
        """
        up (float[N,4,5,5] x) => (float[N,6,10,10] y)
        <float[4,3,2,2] w, float[6] b, float[6] scale, float[6] shift, float[6] mean, float[6] variance>
        {
            [up] c = ConvTranspose<strides=[2,2], group=2>(x, w, b)
            [bn] y = BatchNormalization(c, scale, shift, mean, variance)
        }
        """
    )
    (one,) = match_checkpoint(folded(proto), shuffled(tensors_of(proto))).found
    assert_same(one.former, harvest_batchnorm(ir.from_proto(proto)).entries[0])


def test_layers_that_kept_their_batchnorm_are_not_asked_about():
    proto = models.residual()
    model = ir.from_proto(proto)
    FoldBatchNorm(keep=["bn1"]).call(model)
    recovered = match_checkpoint(model, tensors_of(proto))
    assert [one.former.layer for one in recovered.found] == ["conv0", "conv2"]
    assert [one.where for one in recovered.refusals] == ["gemm"]
