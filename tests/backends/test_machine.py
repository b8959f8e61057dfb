"""--target auto: which machine gets which target, and why."""

from pathlib import Path

import pytest

from backends import machine
from backends.catalog import load_target, target_names
from backends.machine import Detected, choose_target, detect_target, processor_flags

CPU = ("CPUExecutionProvider",)
NVIDIA = ("TensorrtExecutionProvider", "CUDAExecutionProvider", *CPU)
VNNI = {"avx2", "avx512f", "avx512_vnni"}


@pytest.mark.parametrize(
    ("providers", "name", "flags", "gpu", "tensorrt", "wanted"),
    [
        (CPU, "x86_64", VNNI, False, False, "ort_cpu"),
        (CPU, "AMD64", {"avx2", "avx_vnni"}, False, False, "ort_cpu"),
        (CPU, "x86_64", {"sse4_1", "avx2", "avx512f"}, False, False, "ort_cpu_avx2"),
        (CPU, "x86_64", None, False, False, "ort_cpu_avx2"),
        (CPU, "aarch64", None, False, False, "ort_arm"),
        (CPU, "arm64", None, True, True, "ort_arm"),
        (NVIDIA, "x86_64", VNNI, True, True, "tensorrt"),
        (NVIDIA, "x86_64", VNNI, True, False, "ort_cuda"),
        (NVIDIA, "x86_64", VNNI, False, True, "ort_cpu"),
        (("QNNExecutionProvider", *CPU), "ARM64", None, False, False, "qnn_htp"),
        (("QNNExecutionProvider", *CPU), "AMD64", VNNI, False, False, "ort_cpu"),
        (("OpenVINOExecutionProvider", *CPU), "x86_64", VNNI, False, False, "openvino"),
        (("CoreMLExecutionProvider", *CPU), "arm64", None, False, False, "ort_arm"),
    ],
)
def test_a_machine_gets_its_target(providers, name, flags, gpu, tensorrt, wanted):
    found = choose_target(providers=providers, machine=name, flags=flags, has_gpu=gpu, has_tensorrt=tensorrt)
    assert found.name == wanted
    assert found.name in target_names()
    assert found.reason


def test_flags_are_read_from_linux_and_missed_elsewhere(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\nbugs\t: none\n\nflags\t: other\n", encoding="utf-8")
    assert processor_flags(path) == {"fpu", "avx2", "avx_vnni"}
    path.write_text("processor: 0\nFeatures: fp asimd\n", encoding="utf-8")
    assert processor_flags(path) is None
    assert processor_flags(Path(tmp_path / "absent")) is None


def test_auto_is_a_name_of_a_target(monkeypatch):
    assert detect_target().name in target_names()
    monkeypatch.setattr("backends.catalog.detect_target", lambda: Detected(name="tensorrt", reason="a test"))
    assert load_target("auto").name == "tensorrt"
    assert machine.detect_target().name in target_names()
