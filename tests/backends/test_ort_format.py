"""The .ort form: the same outputs, the same bytes, and the operators that it needs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from backends.ort_format import write_ort
from backends.session import RuntimeModelError, open_session
from tests import models

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("platform", ["any", "arm"])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches])
def test_it_gives_the_outputs_of_the_model(tmp_path, make, platform):
    path = tmp_path / "net.onnx"
    onnx.save(make(), path)
    write_ort(path, tmp_path / "net.ort", tmp_path / "ops.config", platform=platform)
    session, other = (open_session(file, threads=1) for file in (path, tmp_path / "net.ort"))
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal([size or 2 for size in shape]).astype(np.float32)
        for name, shape in session.input_shapes.items()
    }
    for name, value in session.run(feeds).items():
        # layouts of one processor are left out of the file, so float sums may be taken in another order
        np.testing.assert_allclose(other.run(feeds)[name], value, rtol=1e-4, atol=1e-5)
    assert "Conv" in (tmp_path / "ops.config").read_text(encoding="utf-8")
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "net.ort", "ops.config"}


def test_it_has_the_same_bytes_in_every_process(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    code = (
        "import sys; from pathlib import Path; from backends.ort_format import write_ort\n"
        "write_ort(Path('net.onnx'), Path(sys.argv[1]), Path('ops.config'))"
    )
    made = []
    for name in ("a.ort", "b.ort", "c.ort"):
        subprocess.run([sys.executable, "-c", code, name], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1] == made[2]


def test_a_model_that_the_runtime_refuses_is_named(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(RuntimeModelError, match=r"cannot make an \.ort file of .*broken\.onnx"):
        write_ort(path, tmp_path / "a.ort", tmp_path / "a.config")
