"""NVIDIA ModelOpt's command line, run in ModelOpt's own environment."""

import subprocess
import sys

# fp32 beside the integers and calibration on the processor: the default of the one is fp16, and the other wants CUDA.
ALWAYS = ("--quantize_mode", "int8", "--high_precision_dtype", "fp32", "--calibration_eps", "cpu", "--simplify")
SETTINGS = {"defaults": ("--calibration_method", "entropy"), "max": ("--calibration_method", "max")}


def main() -> None:
    model, calibration, output, setting = sys.argv[1:]
    files = ("--onnx_path", model, "--calibration_data_path", calibration, "--output_path", output)
    command = [sys.executable, "-m", "modelopt.onnx.quantization", *files, *ALWAYS, *SETTINGS[setting]]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
