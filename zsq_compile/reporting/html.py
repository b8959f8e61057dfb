"""The report as one page that needs nothing else: no network, no scripts, no files beside it."""

import os
from pathlib import Path

import jinja2

from zsq_compile.config.checks import require_folder
from zsq_compile.errors import ConfigError
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
    """Write the page, first under a temporary name beside ``path``, so that no half file is ever seen.

    Raises:
        ConfigError: the file cannot be written.

    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page_of(report), encoding="utf-8", errors="replace")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def require_page(path: Path) -> None:
    """Raise ConfigError unless a page can be put at ``path``."""
    require_folder(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"a report is an HTML page: wanted a name that ends in .html, got {path}")
