"""What holds for all tests: no test waits for a deadline, and every machine computes as one with VNNI does.

Compilations of tests have ``speed_trials=False``: whether a tiny network is slower in integers differs from run to run.
"""

import onnxruntime
from hypothesis import settings

from backends import machine
from tests.exact_sums import ExactSession

settings.register_profile("house", deadline=None)  # no timed assertions: a busy machine is no failure
settings.load_profile("house")

if machine.detect_target().name == "ort_cpu_avx2":  # before anything imports what is put in place here
    onnxruntime.InferenceSession = ExactSession
    machine.detect_target = lambda: machine.Detected(name="ort_cpu", reason="tests let it add exactly")
