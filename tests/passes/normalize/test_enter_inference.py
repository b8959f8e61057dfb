from passes.normalize.enter_inference import EnterInference
from tests import models

TEXT = """g (float[N,4,6,6] x) => (OUTPUTS)
    <float[4] scale, float[4] shift, float[4] mean, float[4] variance, float ratio = {0.5}, bool on = {1}>
    { [bn] n, m, v = BatchNormalization<training_mode=1>(x, scale, shift, mean, variance)
      [drop] y, k = Dropout(n, ratio, on) }"""


def test_training_nodes_do_what_they_do_in_use():
    model = models.graph(TEXT.replace("OUTPUTS", "float[N,4,6,6] y"))
    outcome = EnterInference().call(model)
    assert outcome.modified and not outcome.refusals
    used = """g (float[N,4,6,6] x) => (float[N,4,6,6] y)
        <float[4] scale, float[4] shift, float[4] mean, float[4] variance, float ratio = {0.5}, bool on = {1}>
        { y = BatchNormalization(x, scale, shift, mean, variance) }"""
    assert models.largest_difference(models.parse(used), model) < 1e-6
    training = models.graph(TEXT.replace("OUTPUTS", "float[N,4,6,6] y"))
    assert models.largest_difference(models.parse(used), training) > 0.1, "the comparison sees training mode"
    assert not EnterInference().call(model).modified


def test_what_only_training_makes_may_not_be_read():
    model = models.graph(TEXT.replace("OUTPUTS", "float[N,4,6,6] y, float[4] m, bool[N,4,6,6] k"))
    outcome = EnterInference().call(model)
    assert not outcome.modified
    assert [(refusal.where, refusal.op_type) for refusal in outcome.refusals] == [
        ("bn", "BatchNormalization"),
        ("drop", "Dropout"),
    ]
    assert "'m', which exists in training only" in outcome.refusals[0].reason


def test_inference_is_left_alone():
    model = models.graph("g (float[N,4] x) => (float[N,4] y) <float ratio = {0.5}> { y = Dropout(x, ratio) }")
    assert not EnterInference().call(model).modified
