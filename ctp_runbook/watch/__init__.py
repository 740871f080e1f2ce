"""From a sample to a verdict; writes nothing."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.watch.baseline import baseline_points
    from ctp_runbook.watch.judge import WindowJudgement
    from ctp_runbook.watch.replay import read_rules, rejudge
    from ctp_runbook.watch.sampler import Sampler
    from ctp_runbook.watch.sources import watch_targets
else:
    __getattr__ = late(
        __name__,
        {
            "Sampler": "sampler",
            "WindowJudgement": "judge",
            "baseline_points": "baseline",
            "read_rules": "replay",
            "rejudge": "replay",
            "watch_targets": "sources",
        },
    )

__all__ = [
    "Sampler",
    "WindowJudgement",
    "baseline_points",
    "read_rules",
    "rejudge",
    "watch_targets",
]
