import pytest

from zsq_compile.reporting.charts import HEIGHT, WIDTH, Point, bar, column_chart, line_chart


def points(*values):
    return [Point(value, "note") for value in values]


def heights(chart):
    return [chart.ground - column.y for column in chart.columns]


def test_columns_are_as_high_as_their_values():
    chart = column_chart("n", "dB", [Point(10.0, "a", dot=20.0), Point(20.0, "b"), Point(40.0, "c", dot=10.0)])
    low, middle, high = heights(chart)
    assert (middle / low, high / low) == pytest.approx((2.0, 4.0), abs=0.01)
    assert [column.height for column in chart.columns] == pytest.approx([low, middle, high])
    assert chart.columns[0].dot == pytest.approx(chart.columns[1].y)
    assert [tick.text for tick in chart.ticks] == ["0", "10", "20", "30", "40"]
    assert chart.ticks[1].place == pytest.approx(chart.columns[0].y, abs=0.01)


def test_negative_values_hang_below_the_ground():
    chart = column_chart("n", "dB", points(-20.0, 20.0))
    first, second = chart.columns
    assert first.y == pytest.approx(chart.ground) and first.height == pytest.approx(second.height)
    assert second.y < chart.ground


@pytest.mark.parametrize("count", [1, 12, 13, 102, 1000])
def test_everything_is_on_the_sheet(count):
    chart = column_chart("n", "u", points(*(float(value % 7) for value in range(count))))
    assert len(chart.columns) == count
    for column in chart.columns:
        assert chart.left <= column.x and column.x + column.width <= WIDTH
        assert column.y >= 0.0 and column.y + column.height <= HEIGHT
    assert chart.bottom_ticks[0].text == "1" and chart.bottom_ticks[-1].text == str(count)
    assert len(chart.bottom_ticks) <= 12
    gaps = [
        after.place - before.place for before, after in zip(chart.bottom_ticks, chart.bottom_ticks[1:], strict=False)
    ]
    assert all(gap > 20.0 for gap in gaps), "numbers must not run into each other"


def test_a_logarithmic_scale_gives_a_factor_the_same_length_everywhere():
    chart = column_chart("n", "u", points(0.001, 0.01, 0.1, 1.0), logarithmic=True, limit=(0.1, "here"))
    steps = [after - before for before, after in zip(heights(chart), heights(chart)[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.05)
    assert chart.limit is not None and chart.limit.place == pytest.approx(chart.columns[2].y)
    assert [tick.text for tick in chart.ticks] == ["0.001", "0.01", "0.1", "1"]


def test_zero_on_a_logarithmic_scale_is_drawn_as_the_smallest():
    chart = column_chart("n", "u", points(0.0, 1.0, 10.0), logarithmic=True)
    assert chart.columns[0].y == chart.columns[1].y
    assert column_chart("n", "u", points(0.0), logarithmic=True).columns[0].height >= 1.0


def test_a_line_runs_from_the_first_point_to_the_last():
    chart = line_chart("n", "loss", [(0.0, 1.0), (5.0, 0.5), (10.0, 0.25)])
    places = chart.curve
    assert places[0][0] < places[1][0] < places[2][0] and places[0][1] < places[1][1] < places[2][1]
    assert places[1][1] - places[0][1] == pytest.approx(places[2][1] - places[1][1], abs=0.05)
    assert [tick.text for tick in chart.bottom_ticks] == ["0", "10"]


def test_equal_values_have_a_scale_all_the_same():
    assert len(column_chart("n", "u", points(3.0, 3.0)).ticks) >= 2
    assert len(column_chart("n", "u", points(0.0)).ticks) >= 2
    assert len(line_chart("n", "u", [(1.0, 2.0)]).ticks) >= 2


def test_parts_of_a_bar_lie_beside_each_other():
    made = bar("float", "8 kB", [(6.0, "plain", "w"), (2.0, "second", "b")], 16.0, (4.0, 10.0))
    assert made.parts == ((0.0, 37.5, "plain", "w"), (37.5, 12.5, "second", "b"))
    assert made.spread == (25.0, 62.5)
