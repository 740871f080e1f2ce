"""A history in, something to look at out."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.show.blocks import Block, Page
    from ctp_runbook.show.report import write_report
    from ctp_runbook.show.terminal import Narrator, sentence_of
    from ctp_runbook.show.watch_figure import watch_picture
else:
    __getattr__ = late(
        __name__,
        {
            "Block": "blocks",
            "Narrator": "terminal",
            "Page": "blocks",
            "sentence_of": "terminal",
            "watch_picture": "watch_figure",
            "write_report": "report",
        },
    )

__all__ = ["Block", "Narrator", "Page", "sentence_of", "watch_picture", "write_report"]
