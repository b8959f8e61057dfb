"""Loading as ``inspect`` does it."""

from functools import partial

from zsq_compile.frontend.load import load_model

load_quickly = partial(load_model, simplify=False, verify=False)
