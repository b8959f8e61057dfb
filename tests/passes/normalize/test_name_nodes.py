from passes.normalize.name_nodes import NameNodes
from tests import models


def test_names_are_unique_and_given_ones_are_kept():
    model = models.graph(
        "g (float[2] x) => (float[2] y)"
        "{ a = Relu(x) [same] b = Relu(a) [same] c = Relu(b) [same_1] d = Relu(c) [own] y = Relu(d) }"
    )
    assert NameNodes()(model).modified
    assert [node.name for node in model.graph] == ["Relu_a", "same", "same_2", "same_1", "own"]
    assert not NameNodes()(model).modified
