"""The report as one page that needs nothing else: no network, no scripts, no files beside it."""

from pathlib import Path

import jinja2

from zsq_compile.config.checks import require_folder
from zsq_compile.errors import ConfigError
from zsq_compile.files import written_whole
from zsq_compile.reporting.report import Report
from zsq_compile.reporting.view import view_of

_TEMPLATE = "report.html.j2"


def page_of(report: Report) -> str:
    """Write a report as one HTML page, with its charts as SVG and its pictures inside.

    Names that come from the model are escaped wherever they stand.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(view=view_of(report), versions=report.versions)


def write_page(path: Path, report: Report) -> None:
    """Write the page. ConfigError when that fails."""
    with written_whole(path) as part:
        part.write_text(page_of(report), encoding="utf-8", errors="replace")


def require_page(path: Path) -> None:
    """Raise ConfigError unless a page can be put at ``path``."""
    require_folder(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"a report is an HTML page: wanted a name that ends in .html, got {path}")
