"""What holds for all tests: no test waits, and every machine computes as one with VNNI does.

Compilations of tests have ``speed_trials=False``: whether a tiny network is slower in integers differs from run to run.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: read by torch's libraries when they are loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnxruntime
from hypothesis import settings

from backends import machine
from tests.exact_sums import ExactSession

if machine.detect_target().name == "ort_cpu_avx2":  # before anything imports what is put in place here
    onnxruntime.InferenceSession = ExactSession
    machine.detect_target = lambda: machine.Detected(name="ort_cpu", reason="tests let it add exactly")

from tests.remembered_pictures import remember
from zsq_compile.synthesis.images import pictures
from zsq_compile.verification.validate import validate

settings.register_profile("house", deadline=None)  # no timed assertions: a busy machine is no failure
settings.load_profile("house")

pictures._DRAW = {family: remember(draw) for family, draw in pictures._DRAW.items()}
assert validate.__kwdefaults__ is not None
validate.__kwdefaults__["latency_seconds"] = 0.05  # no test asks how fast a file is
