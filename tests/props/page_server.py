"""A metrics page served by a process of its own, from a file that a test may write at any time.

It stands where the new engine of a small stack would be.
"""

from __future__ import annotations

import http.server
import sys
from pathlib import Path

__all__ = ["main", "page_command", "put"]


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """The file as it is now."""
        body = Path(sys.argv[2]).read_bytes()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the page is asked many times a second."""


def page_command(port: int, page: Path) -> str:
    """The command of a process that shows ``page`` at ``port`` of 127.0.0.1."""
    return f"{sys.executable} {__file__} {port} {page}"


def put(page: Path, text: str) -> None:
    """Show ``text`` from now on, whole."""
    draft = page.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(page)


def main() -> None:
    """Serve until somebody ends it."""
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Page).serve_forever()


if __name__ == "__main__":
    main()
