"""README and programs of a package, filled in from its manifest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from zsq_compile.data.preprocessing import Preprocessing, Source
from zsq_compile.packaging.samples import Sample

_ORDERS = {1: "gray", 3: "red, green, blue", 4: "red, green, blue and a fourth plane"}
_KNOWN: Mapping[Source, str] = {
    "given": "given when it was compiled",
    "read": "read from the file that it was compiled from",
    "inferred": "inferred from its statistics",
    "ranked": "the only plausible one when it was compiled, which nothing proves",
    "assumed": "assumed when it was compiled",
    "unexplained": "assumed when it was compiled, though nothing comes near its statistics",
}
_TEMPLATES = Path(__file__).parent / "templates"
_CPP_TYPES = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "float16": "FLOAT16",
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
# Providers that have a function of their own in the C++ interface; the others are appended by their short name.
_CPP_CALLS = {
    "CUDAExecutionProvider": "  options.AppendExecutionProvider_CUDA(OrtCUDAProviderOptions{});",
    "TensorrtExecutionProvider": (
        "  OrtTensorRTProviderOptions tensorrt{};\n  tensorrt.trt_int8_enable = 1;\n"
        "  options.AppendExecutionProvider_TensorRT(tensorrt);"
    ),
    "CPUExecutionProvider": "",
}


def write_snippets(
    folder: Path, manifest: Mapping[str, Any], samples: Sequence[Sample], *, model_name: str, others: Sequence[str]
) -> None:
    """Write README.md, run.py, run.cpp and verify.py into a package that also has the files ``others``.

    The first sample gives the shapes that run.cpp feeds.
    """
    texts = {
        "README.md": _readme(manifest, model_name, others),
        "run.py": _python(manifest),
        "run.cpp": _cpp(manifest, samples[0]),
        "verify.py": (Path(__file__).parent / "verify.py").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _readme(manifest: Mapping[str, Any], model_name: str, others: Sequence[str]) -> str:
    ort = "; `model.ort` is the same for minimal builds of ONNX Runtime, whose operators "
    return _filled(
        "README.md",
        {
            "model_name": model_name,
            "target": manifest["target"]["name"],
            "version": manifest["tool"]["packed_by"],
            "description": manifest["target"]["description"],
            "ort_line": f"{ort}`model.required_operators.config` lists" if "model.ort" in others else "",
            "report_line": "".join(f"\n- `{name}`: evidence of the compilation" for name in others if "report" in name),
            "contract": _describe_contract(manifest["input_contract"]),
        },
    )


def _python(manifest: Mapping[str, Any]) -> str:
    session, contract, prepare = manifest["session"], manifest["input_contract"], "\n"
    if contract is not None and contract.get("layout", "NCHW") is not None:
        channels = len(contract["mean"])
        last = contract.get("layout") == "NHWC"
        dtype = next((one["dtype"] for one in manifest["inputs"] if len(one["shape"]) == 4), "float32")
        prepare = _filled(
            "prepare.py",
            {
                "channels": channels,
                "order": _ORDERS[channels],
                "shape": f"(N, H, W, {channels})" if last else f"(N, {channels}, H, W)",
                "dtype": dtype,
                "mean": list(contract["mean"]),
                "std": list(contract["std"]),
                "flip": "[..., ::-1]" if contract["channel_order"] == "bgr" else "",
                "arranged": ("" if last else ".transpose(0, 3, 1, 2)") + (".round()" if dtype == "uint8" else ""),
            },
        )
    return _filled(
        "run.py",
        {
            "inputs": [entry["name"] for entry in manifest["inputs"]],
            "outputs": [entry["name"] for entry in manifest["outputs"]],
            "config": session["config"],
            "providers": session["providers"],
            "provider_options": [session["provider_options"].get(name, {}) for name in session["providers"]],
            "prepare": prepare,
        },
    )


def _cpp(manifest: Mapping[str, Any], sample: Sample) -> str:
    session = manifest["session"]
    lines = [f"  options.AddConfigEntry({_quoted(key)}, {_quoted(value)});" for key, value in session["config"].items()]
    for provider in session["providers"]:
        options = session["provider_options"].get(provider, {})
        pairs = ", ".join(f"{{{_quoted(key)}, {_quoted(value)}}}" for key, value in options.items())
        short = provider.removesuffix("ExecutionProvider").replace("Xnnpack", "XNNPACK")
        lines.append(_CPP_CALLS.get(provider, f"  options.AppendExecutionProvider({_quoted(short)}, {{{pairs}}});"))
    arrays = [np.asarray(array) for array in sample.inputs.values()]
    return _filled(
        "run.cpp",
        {
            "configure": "\n".join(line for line in lines if line),
            "input_names": ", ".join(_quoted(name) for name in sample.inputs),
            "output_names": ", ".join(_quoted(entry["name"]) for entry in manifest["outputs"]),
            "shapes": ", ".join("{" + ", ".join(map(str, array.shape)) + "}" for array in arrays),
            "types": ", ".join(f"ONNX_TENSOR_ELEMENT_DATA_TYPE_{_CPP_TYPES[array.dtype.name]}" for array in arrays),
        },
    )


def _describe_contract(contract: Mapping[str, Any] | None) -> str:
    if contract is None:
        return "The preprocessing of images is not known, or the model takes none."
    if contract.get("layout", "NCHW") is None:
        return _describe_signal(contract)
    order, named = {
        "bgr": ("channels in the order blue, green, red", " (in the order red, green, blue)"),
        "rgb": ("channels in the order red, green, blue", ""),
        "gray": ("one gray channel", ""),
        "rgba": ("channels in the order red, green, blue and a fourth plane", ""),
    }[contract["channel_order"]]
    known = _KNOWN[Preprocessing.from_json(contract).source]
    axes = ", axes in the order batch, height, width, channels" if contract.get("layout") == "NHWC" else ""
    return (
        f"Input: pixels in [0, 1], {order}{axes}, minus {list(contract['mean'])}{named} and divided by "
        f"{list(contract['std'])}, {known}."
    )


def _describe_signal(contract: Mapping[str, Any]) -> str:
    """Say on which signals the model was calibrated: others clip, or use few of the 256 levels."""
    told = Preprocessing.from_json(contract)
    scale = " ".join(f"{1.0 / one:.4g}" for one in told.std)
    offset = " ".join(f"{-middle / by:.4g}" for middle, by in zip(told.mean, told.std, strict=True))
    return (
        f"Input `{contract['input']}`: signals of the family {told.family} times {scale}, plus {offset}, "
        f"{_KNOWN[told.source]}."
    )


def _filled(template: str, values: Mapping[str, object]) -> str:
    text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute({name: str(value) for name, value in values.items()})


def _quoted(text: str) -> str:
    """Write a C++ string literal; JSON's is one but for its escapes of letters."""
    return json.dumps(text, ensure_ascii=False)
