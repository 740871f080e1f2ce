"""The rehearsal twin: a simulated CTP front and real processes around it, on loopback only."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.rehearsal.rehearse import Rehearsal, fault_names, rehearse_cutover
    from ctp_runbook.rehearsal.twin import Twin
else:
    __getattr__ = late(
        __name__,
        {
            "Rehearsal": "rehearse",
            "Twin": "twin",
            "fault_names": "rehearse",
            "rehearse_cutover": "rehearse",
        },
    )

__all__ = ["Rehearsal", "Twin", "fault_names", "rehearse_cutover"]
