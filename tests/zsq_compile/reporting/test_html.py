"""The report's page: well formed, complete, harmless whatever a model calls its nodes, and on its own."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.zsq_compile.reporting.reports import HOSTILE, a_bare_report, a_report
from zsq_compile.config.units import size_words
from zsq_compile.errors import ConfigError
from zsq_compile.reporting.alarms import Alarm
from zsq_compile.reporting.facts import calibration_facts, comparison_rows, validation_facts
from zsq_compile.reporting.figures import latency_bars, layer_chart, learning_charts, moment_chart, size_bars
from zsq_compile.reporting.html import layer_map, page_of, require_page, write_page

VOID = {"meta", "link", "img", "br", "rect", "line", "circle", "polyline"}
LARGEST = 1_500_000


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def text() -> str:
    return page_of(a_report())


@pytest.mark.parametrize(
    "report", [a_report(), a_report(layers=1, pictures=1), a_bare_report()], ids=["full", "small", "bare"]
)
def test_the_page_is_well_formed(report: object) -> None:
    page = Page(page_of(report))  # type: ignore[arg-type]
    assert [tag for tag, _ in page.tags[:2]] == ["html", "head"]
    assert [tag for tag, _ in page.tags].count("main") == 1


def test_nothing_is_fetched_and_nothing_runs(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert str(value).startswith("data:"), f"{tag} points to {value}"
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"(?i)\b(https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert any(attributes.get("http-equiv") == "Content-Security-Policy" for _, attributes in page.tags)


def test_names_of_the_model_are_words_and_no_markup(text: str) -> None:
    page = Page(text)
    assert HOSTILE in page.text.replace(" .", ".") or " ".join(HOSTILE.split()) in page.text
    assert "<script" not in text and "onerror=alert(1)>" not in text.replace("onerror=alert(1)&gt;", "")
    assert "49" not in {word for word in page.words if "7 * 7" in word}, "braces of a name are not evaluated"
    assert [attributes for tag, attributes in page.tags if tag == "img" and "onerror" in attributes] == []


def test_figures_are_those_of_the_json(text: str) -> None:
    report = a_report()
    told, page = report.to_json(), Page(text)
    assert json.dumps(told, allow_nan=False)
    facts = (*calibration_facts(report), *validation_facts(report.validation))
    for row in (*comparison_rows(report.validation), *facts):
        for cell in row:
            assert " ".join(cell.split()) in page.text
    for layer in told["worst_layers"]:
        assert f"{layer['own_sqnr_db']:.1f} dB by itself" in page.text
    for number, layer in enumerate(told["layers"]):
        assert (
            f"{number + 1}. {layer['node']} ({layer['op_type']}): {layer['sqnr_db']['reconstruct']:.1f} dB"
            in "".join(page.words)
        )
    for moment in told["moments"]:
        assert f"distance {moment['distance']:.3g}, means" in page.text
    for digest in told["sha256"].values():
        assert digest in page.text
    for name, version in told["versions"].items():
        assert name in page.text and version in page.text
    for file in told["contents"].values():
        assert (
            size_words(sum(file["weights"].values()) + sum(v for k, v in file.items() if k != "weights")) in page.text
        )
    for stage, seconds in told["stages"].items():
        assert f"{seconds:.1f} s" in page.text and stage in page.text
    assert page.text.count("the target has no integer kernel") == len(told["refusals"])
    assert [tag for tag, _ in page.tags].count("img") == len(told["pictures"]) == 24
    assert all("png" not in picture for picture in told["pictures"])


def test_the_largest_page_is_within_a_megabyte_and_a_half(text: str) -> None:
    assert len(text.encode()) < LARGEST


def test_every_chart_has_its_marks() -> None:
    values = a_report().to_json()
    layers, moments = layer_chart(values["layers"], values["worst_layers"]), moment_chart(values["moments"])
    assert layers is not None and len(layers.columns) == 102
    assert sorted(column.point.label for column in layers.columns if column.point.label) == ["1", "2", "3"]
    assert moments is not None and len(moments.columns) == 102 and moments.limit is not None
    assert [heading.split(":")[0] for heading, _ in learning_charts(values)] == [
        "Synthesis",
        "Reconstruction",
        "Distillation",
    ]
    assert len(layer_map(values)) == 102 + 1, "a layer in float has one field"
    sizes, latency = size_bars(values["contents"]), latency_bars(values["validation"]["latency"])
    assert [bar.label for bar in sizes] == ["float", "quantized"] == [bar.label for bar in latency]
    assert sum(width for _, width, _, _ in sizes[0].parts) == pytest.approx(100.0, abs=0.1)


def test_a_bare_report_says_what_is_missing() -> None:
    page = Page(page_of(a_bare_report()))
    assert "Latency was not measured." in page.text
    assert "no batch normalisation statistics" in page.text
    assert "Nothing that could run in integers was left in float." in page.text
    assert "with the data that was given" in page.text
    assert [tag for tag, _ in page.tags].count("svg") == 0


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_page(path, a_bare_report())
    assert path.read_text(encoding="utf-8") == page_of(a_bare_report())
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot be written"):
        write_page(tmp_path / "none" / "report.html", a_bare_report())


def test_a_page_wants_a_folder_and_an_ending(tmp_path: Path) -> None:
    require_page(tmp_path / "a.html")
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        require_page(tmp_path / "a.pdf")
    with pytest.raises(ConfigError, match="folder that exists"):
        require_page(tmp_path / "none" / "a.html")


def test_alarms_stand_before_all_figures() -> None:
    alarm = Alarm(kind="output", where="output 'p'", words=f"it is always {HOSTILE}", advice="give --calib")
    shown = Page(page_of(replace(a_report(), alarms=(alarm,)))).text
    assert (
        -1 < shown.index("Do not trust this file") < shown.index("output 'p'") < shown.index("Float against quantized")
    )
    assert "Do not trust" not in Page(page_of(a_report())).text
