"""Executed notebooks as pages beside the run's report: for a reviewer who has no Jupyter.

Their cells and outputs and nothing else: no script, no address to fetch from. A page that cannot be
made is said and left out; the notebook itself is there.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.record.rundir import RunDir, write_atomic

if TYPE_CHECKING:
    from nbconvert import HTMLExporter

__all__ = ["render_notebooks"]

_STYLE = """
:root{color-scheme:light dark}
body{max-width:1120px;margin:0 auto;padding:16px 24px;font:14px/1.45 system-ui,sans-serif}
.jp-InputPrompt,.jp-OutputPrompt,.prompt,.anchor-link{display:none}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px}
.highlight{background:rgba(127,127,127,.1);padding:4px 10px}
img{max-width:100%}[data-mime-type*="stderr"],.output_error{border-left:4px solid #D55E00}
@page{margin:12mm;@bottom-right{content:"page " counter(page) " of " counter(pages)}}
"""
_SCRIPT = re.compile(r"<script\b.*?</script\s*>|<link\b[^>]*>", re.DOTALL | re.IGNORECASE)


def render_notebooks(run: RunDir) -> list[str]:
    """Write ``NAME.html`` beside each executed notebook of a run; why not, for each that could not be."""
    return [why for path in sorted(run.notebooks.glob("*.ipynb")) if (why := _render(path))]


def _render(path: Path) -> str:
    import html
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a picture without words: the notebook's affair
            body, _ = _exporter().from_filename(str(path))
        write_atomic(path.with_suffix(".html"), _page(html.escape(path.stem), body).encode())
    except Exception as error:  # noqa: BLE001 - a foreign notebook may break any part of a renderer
        return f"{path.name} is not rendered: {type(error).__name__}: {error}"
    return ""


@cache
def _exporter() -> HTMLExporter:
    """One for all pages: half of what a page costs is to read the template."""
    from nbconvert import HTMLExporter

    return HTMLExporter(template_name="basic")  # type: ignore[no-untyped-call]


def _page(name: str, body: str) -> str:
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{name}</title><style>{_STYLE}</style></head><body>"
        f"<nav><a href='../report.html'>the run's report</a></nav>"
        f"<main>{_SCRIPT.sub('', body)}</main></body></html>\n"
    )
