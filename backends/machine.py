"""Detect the target of this machine, from its processor and the providers of the installed onnxruntime."""

import platform
from collections.abc import Collection
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backends.session import available_providers

_ARM = frozenset({"aarch64", "arm64", "armv8l", "armv7l"})
# Dot products of four int8 pairs with 32-bit sums, which do not saturate: AVX512-VNNI, AVX-VNNI, AMX.
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_GPUS = ("/dev/nvidia0", "/dev/dxg")  # of Linux, and of Linux in Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Detected:
    """A target's name, and why it was chosen."""

    name: str
    reason: str


def detect_target() -> Detected:
    """Detect the target of this machine: an accelerator whose provider is installed, else the CPU."""
    return choose_target(
        providers=available_providers(),
        machine=platform.machine(),
        flags=processor_flags(),
        has_gpu=any(Path(device).exists() for device in _GPUS),
        has_tensorrt=find_library("nvinfer") is not None or find_spec("tensorrt") is not None,
    )


def choose_target(
    *,
    providers: Collection[str],
    machine: str,
    flags: Collection[str] | None,
    has_gpu: bool,
    has_tensorrt: bool,
) -> Detected:
    """Choose the target of a machine.

    Args:
        providers: execution providers of its onnxruntime. A GPU build names those of CUDA and TensorRT on any machine.
        machine: name of the architecture.
        flags: of an x86 processor; None where they cannot be read.
        has_gpu: there is an NVIDIA device.
        has_tensorrt: TensorRT's library is installed.

    """
    if has_gpu and has_tensorrt and "TensorrtExecutionProvider" in providers:
        return Detected(name="tensorrt", reason="there is an NVIDIA device, and onnxruntime has TensorRT")
    if has_gpu and "CUDAExecutionProvider" in providers:
        return Detected(name="ort_cuda", reason="there is an NVIDIA device, and onnxruntime has CUDA")
    if "QNNExecutionProvider" in providers and machine.lower() in _ARM:
        return Detected(name="qnn_htp", reason="onnxruntime has QNN, and the processor is ARM")
    if "OpenVINOExecutionProvider" in providers:
        return Detected(name="openvino", reason="onnxruntime has OpenVINO")
    if machine.lower() in _ARM:
        return Detected(name="ort_arm", reason=f"the processor is {machine}")
    if flags is None:
        return Detected(name="ort_cpu_avx2", reason="the processor's flags cannot be read, and this is right on any")
    found = sorted(_DOT_PRODUCTS & set(flags))
    if found:
        return Detected(name="ort_cpu", reason=f"the processor has {found[0]}")
    return Detected(name="ort_cpu_avx2", reason="the processor has no VNNI")


def processor_flags(source: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Read the flags of an x86 processor as Linux lists them, None where it does not."""
    try:
        lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("flags")), None)
    return None if found is None else frozenset(found.partition(":")[2].split())
