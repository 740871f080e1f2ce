"""What an auditor needs to read a run without this project: a JSON Schema a kind of record.

``python -m ctp_runbook.record.schemas FOLDER`` writes them all; ``infra/schemas/`` is their place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ctp_runbook.plan.checklist import ChecklistFacts
from ctp_runbook.record.calibration import Calibration
from ctp_runbook.record.evidence import Manifest
from ctp_runbook.record.gate_files import CanaryFile, ReadinessFile
from ctp_runbook.record.journal import Line
from ctp_runbook.record.kinds import KINDS, RunCreated
from ctp_runbook.record.past_runs import Comparison, PastRuns
from ctp_runbook.record.samples import SampleLine
from ctp_runbook.record.told import FORMS

__all__ = ["main", "schemas"]

_DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def schemas() -> Mapping[str, Mapping[str, Any]]:
    """Each schema under the name of its file: ``journal.KIND.json`` describes a line of
    journal.jsonl, ``told.json`` a line that `--json` prints, the others a whole file or a line of
    samples."""
    documents = {
        "run": RunCreated,
        "sample": SampleLine,
        "manifest": Manifest,
        "calibration": Calibration,
        "told": FORMS,
        "runs": PastRuns,
        "compare": Comparison,
        "checklist": ChecklistFacts,
        "readiness": ReadinessFile,
        "canary": CanaryFile,
    }
    return {
        **{f"journal.{kind}.json": _line_schema(kind) for kind in sorted(KINDS)},
        **{f"{name}.json": _DIALECT | msgspec.json.schema(of) for name, of in documents.items()},
    }


def _line_schema(kind: str) -> Mapping[str, Any]:
    payload: Any = KINDS[kind]
    schema = msgspec.json.schema(Line[payload])
    line = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    line["properties"]["kind"] = {"const": kind}
    return _DIALECT | schema


def main(argv: list[str]) -> None:
    """Write every schema into the folder that is named."""
    folder = Path(argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        text = msgspec.json.format(msgspec.json.encode(schema), indent=2)
        (folder / name).write_bytes(text + b"\n")


if __name__ == "__main__":
    main(sys.argv)
