import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests import models
from zsq_compile.frontend import opset
from zsq_compile.frontend.opset import OpsetError, convert_opset

TOLERANCE = 2e-6  # of the output's magnitude: the runtime has other kernels for other versions
IMAGE = "float[N,4,6,6] x"


def model(version: int, body: str, constants: str = "", output: str = "float[A,B,C,D] y") -> onnx.ModelProto:
    declared = f"<{constants}>" if constants else ""
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {version}]> g ({IMAGE}) => ({output}) {declared} {{ {body} }}'
    )


@pytest.mark.parametrize(
    ("version", "body", "constants"),
    [
        (7, 'y = Upsample<mode="linear", scales=[1.0,1.0,2.0,2.0]>(x)', ""),
        (8, 'y = Upsample<mode="nearest", scales=[1.0,1.0,1.5,2.5]>(x)', ""),
        (9, 'y = Upsample<mode="linear">(x, s)', "float[4] s = {1.0,1.0,1.5,3.0}"),
        (10, 'y = Resize<mode="linear">(x, s)', "float[4] s = {1.0,1.0,2.0,2.0}"),
        (10, 'y = Resize<mode="nearest">(x, s)', "float[4] s = {1.0,1.0,0.5,1.5}"),
        (12, 'y = Resize<mode="linear">(x, r, s)', "float[4] s = {1.0,1.0,2.0,2.0}, float[0] r = {}"),
        (7, "y = Clip<min=-0.5, max=0.5>(x)", ""),
        (9, "y = Softmax<axis=1>(x)", ""),
        (8, "y = Pad<pads=[0,0,1,2,0,0,0,1], value=0.5>(x)", ""),
        (9, "y = Slice<starts=[0,1], ends=[2,4], axes=[1,3]>(x)", ""),
        (7, "y = BatchNormalization<spatial=1>(x, a, a, a, a)", "float[4] a = {0.5,1.0,1.5,2.0}"),
        (13, "y = ReduceMean<axes=[2,3]>(x)", ""),
        (17, "y = Dropout(x)", ""),
    ],
)
def test_a_raised_model_computes_the_same(version, body, constants):
    old = model(version, body, constants)
    new = convert_opset(old, version, 21)
    assert old.opset_import[0].version == version and new.opset_import[0].version == 21 and new.ir_version >= 10
    assert models.largest_difference(old, new) < TOLERANCE


def test_the_converter_alone_would_change_linear_upsampling(monkeypatch):
    monkeypatch.setattr(opset, "_restore_resizing", lambda *_: None)
    old = model(8, 'y = Upsample<mode="linear", scales=[1.0,1.0,2.0,2.0]>(x)')
    assert models.largest_difference(old, convert_opset(old, 8, 21)) > 0.01


def test_later_opsets_are_kept():
    text = '<ir_version: 10, opset_import: ["" : 22]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    new = convert_opset(onnx.parser.parse_model(text), 22, 22)
    assert new.opset_import[0].version == 22
    feeds = {"x": np.array([[-1, 0, 1, 2]], np.float32)}
    np.testing.assert_array_equal(open_session(new, threads=1).run(feeds)["y"], [[0, 0, 1, 2]])


def test_what_the_converter_cannot_do_is_an_error():
    text = """<ir_version: 8, opset_import: ["" : 8]> g (float[1,4,2,2] x, float[4,2,2] a) => (float[1,4,2,2] y)
        { y = BatchNormalization<spatial=0>(x, a, a, a, a) }"""
    with pytest.raises(OpsetError, match="spatial"):
        convert_opset(onnx.parser.parse_model(text), 8, 21)
