import math

import pytest

from zsq_compile.verification.firmness import firmness


def test_firmness_is_the_mean_logarithm_of_margins() -> None:
    assert firmness([1.0, 1.0]) == 0.0
    assert firmness([0.5, 2.0, 3.0]) == pytest.approx(math.log(3.0) / 3.0)
    assert firmness([]) == 0.0


def test_logits_in_units_of_their_own_tell_no_more_than_firm_ones() -> None:
    assert firmness([176.0]) == firmness([4.0]) == pytest.approx(math.log(4.0))
    assert firmness([0.0]) == pytest.approx(-math.log(4.0))
