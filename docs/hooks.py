"""Build hook: shows the result tables of benchmarks/results as pages of the site, without a copy under docs/.

Pages link to them as they do on a code host, ``../benchmarks/results/NAME.md`` from docs/; in the site the tables lie
under ``benchmarks/results``, one level nearer.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\]\(\.\./((?:\.\./)*benchmarks/results/)")


def on_files(files: Files, config: Any) -> Files:
    """Add the tables."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Point links at where the tables lie in the site."""
    return _LINK.sub(r"](\1", markdown)
