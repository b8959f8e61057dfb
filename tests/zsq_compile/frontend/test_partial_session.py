import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
import onnx_ir as ir
from tests import models
from zsq_compile.frontend.partial_session import open_partial_session
open_partial_session(ir.from_proto(models.residual()), ["r0"])
print(sys.float_info.min / 2 > 0)
"""


def test_the_callers_numbers_keep_their_denormals() -> None:
    # In a process of its own: only its first session could change how the thread computes.
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
