"""One Linux machine, without policy: processes, daemons, locks, clocks."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.host.clocks import Clocks
    from ctp_runbook.host.held_command import HeldCommand
    from ctp_runbook.host.lock import take_environment_lock
    from ctp_runbook.host.process import end_group, identity_of, is_running
else:
    __getattr__ = late(
        __name__,
        {
            "Clocks": "clocks",
            "HeldCommand": "held_command",
            "end_group": "process",
            "identity_of": "process",
            "is_running": "process",
            "take_environment_lock": "lock",
        },
    )

__all__ = [
    "Clocks",
    "HeldCommand",
    "end_group",
    "identity_of",
    "is_running",
    "take_environment_lock",
]
