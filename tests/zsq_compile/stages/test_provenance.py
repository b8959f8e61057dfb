"""What a compiled model says of itself."""

from dataclasses import asdict, replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from tests import models
from zsq_compile.config.compile import CompileConfig, InputConfig
from zsq_compile.config.generators import PriorConfig
from zsq_compile.errors import ConfigError
from zsq_compile.files import file_sha256
from zsq_compile.stages.provenance import Origin, read_origin, stamp
from zsq_compile.version import VERSION

CONTRACT = {
    "name": "byte_bgr",
    "mean": (123.0 / 255, 117.0 / 255, 104.0 / 255),
    "std": (1 / 255,) * 3,
    "channel_order": "bgr",
    "inferred": True,
    "margin": 3.0,
}


ORIGIN = Origin(version="9.9", seed=5, target="ort_cpu", source_sha256="ab" * 32)


def network() -> ir.Model:
    return ir.from_proto(models.conv_bn_relu())


def test_what_is_written_is_read() -> None:
    assert read_origin(stamp(network(), ORIGIN).metadata_props) == ORIGIN
    contract = read_origin(stamp(network(), replace(ORIGIN, contract=CONTRACT)).metadata_props).contract
    assert contract is not None
    assert contract["mean"] == pytest.approx(CONTRACT["mean"], rel=1e-8)
    assert (contract["channel_order"], contract["inferred"], "margin" in contract) == ("bgr", True, False)


def test_the_contract_does_not_change_the_size() -> None:
    model = stamp(network(), ORIGIN)
    stamped = stamp(model, replace(ORIGIN, contract=CONTRACT))
    assert ir.to_proto(stamped).ByteSize() == ir.to_proto(model).ByteSize()
    assert read_origin(model.metadata_props).contract is None, "the model itself stays as it is"


def test_a_model_of_others_says_nothing() -> None:
    assert read_origin({"author": "somebody"}) == Origin()


@pytest.mark.parametrize(("name", "text"), [("seed", "many"), ("contract", "{"), ("contract", "[1]")])
def test_what_cannot_be_read_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match="compile it again"):
        read_origin({f"zsq_compile.{name}": text})


def test_a_compiled_file_tells_where_it_comes_from(tmp_path: Path) -> None:
    from zsq_compile.compiler import compile_model

    onnx.save(models.residual(), tmp_path / "net.onnx")
    config = CompileConfig(
        generator=PriorConfig(),
        samples=8,
        effort="fast",
        speed_trials=False,
        seed=11,
        input=InputConfig(mean=(0.5,), std=(0.25,)),
    )
    path = compile_model(tmp_path / "net.onnx", config=config).path
    told = read_origin({entry.key: entry.value for entry in onnx.load(path).metadata_props})
    assert asdict(told) | {"contract": None} == {
        "version": VERSION,
        "seed": 11,
        "target": "ort_cpu",
        "source_sha256": file_sha256(tmp_path / "net.onnx"),
        "sizes": {},
        "contract": None,
    }
    assert told.contract is not None
    assert (told.contract["name"], told.contract["mean"], told.contract["std"]) == ("given", [0.5] * 3, [0.25] * 3)
