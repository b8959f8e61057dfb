import math

import numpy as np
import pytest

from zsq_compile.verification.firmness import firmness


def test_firmness_is_the_mean_logarithm_of_margins_in_deviations() -> None:
    wide = math.sqrt(2.0 * math.log(10))
    assert firmness([(1.0 / wide, 10), (1.0 / wide, 10)]) == pytest.approx(0.0)
    assert firmness([(0.5, 10), (2.0, 10), (3.0, 10)]) == pytest.approx(math.log(3.0) / 3.0 + math.log(wide))
    assert firmness([]) == 0.0


def test_logits_in_units_of_their_own_tell_no_more_than_firm_ones() -> None:
    assert firmness([(176.0, 10)]) == firmness([(4.0, 10)])
    assert firmness([(0.0, 10)]) == firmness([(0.25, 10)])


def test_margins_of_many_normal_scores_are_as_firm_as_those_of_few() -> None:
    """By simulation, to a fifth: the spacing of extremes is asymptotic."""
    rng = np.random.default_rng(0)
    firm = []
    for classes in (10, 1000):
        ranked = np.sort(1.5 * rng.standard_normal((4000, classes)), 1)
        firm.append(firmness([(float(np.median(ranked[:, -1] - ranked[:, -2])), classes)]))
    assert firm[0] == pytest.approx(firm[1], abs=0.2)
