"""What holds for all tests: no test waits for a deadline, and every machine computes as one with VNNI does.

Compilations of tests have ``speed_trials=False``: whether a tiny network is slower in integers differs from run to run.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: read by torch's libraries when they are loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnxruntime
from hypothesis import settings

from backends import machine
from tests.exact_sums import ExactSession

settings.register_profile("house", deadline=None)  # no timed assertions: a busy machine is no failure
settings.load_profile("house")

if machine.detect_target().name == "ort_cpu_avx2":  # before anything imports what is put in place here
    onnxruntime.InferenceSession = ExactSession
    machine.detect_target = lambda: machine.Detected(name="ort_cpu", reason="tests let it add exactly")
