"""Facts about record/schemas.py: what an auditor is given describes what is written, no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ctp_runbook.record.journal import Journal, header_text
from ctp_runbook.record.samples import Sample
from ctp_runbook.record.schemas import main, schemas
from tests.props.example_calibration import MADE, calibration
from tests.props.example_records import EXAMPLES, header_like

COMMITTED = Path(__file__).parents[2] / "infra" / "schemas"


def refused(schema: str, value: Any) -> bool:
    """True when the value is not what the committed schema describes."""
    validator = jsonschema.Draft202012Validator(json.loads((COMMITTED / schema).read_bytes()))
    return not validator.is_valid(value)


def test_the_committed_schemas_are_the_types(tmp_path: Path) -> None:
    """``python -m ctp_runbook.record.schemas infra/schemas`` after each change of a kind."""
    main(["schemas", str(tmp_path)])
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written.keys() == schemas().keys()
    assert {path.name: path.read_text() for path in COMMITTED.iterdir()} == written


@pytest.mark.parametrize("kind", EXAMPLES)
def test_each_kind_of_record_is_described(kind: str, tmp_path: Path) -> None:
    """A line as it is written; not one of another kind, nor one with a key more or less."""
    journal = Journal(tmp_path / "journal.jsonl", durable=False)
    line = json.loads(journal.append(EXAMPLES[kind]).line)
    journal.close()
    schema = f"journal.{kind}.json"
    assert not refused(schema, line)
    assert refused(schema, {**line, "kind": "nobody"})
    assert refused(schema, {**line, "payload": {**line["payload"], "nobody": 1}})
    assert refused(schema, {**line, "payload": {}})


def test_the_header_is_described_as_run_json_too() -> None:
    """One form, one format number."""
    header = json.loads(header_text(header_like()))
    assert not refused("run.json", header)
    assert refused("run.json", {**header, "format": 2})


@pytest.mark.parametrize(("value", "is_written"), [(1.5, True), ("nan", True), ("fast", False)])
def test_a_sample_is_described(value: object, is_written: bool) -> None:
    """A number, or the word for what JSON has no number for."""
    sample = Sample(0, 1.0, 1.0, "engine", "page", True, "", 2.5, {"up": 1.0})
    line = {**json.loads(sample.to_line()), "series": {"up": value}}
    assert refused("sample.json", line) is not is_written


def test_a_calibration_is_described() -> None:
    """As it is written; not one of another format, nor with a window that has no verdict."""
    written = json.loads(calibration().json)
    assert not refused("calibration.json", written)
    assert refused("calibration.json", {**written, "format": 2})
    assert refused("calibration.json", {**written, "windows": [{"started_utc": MADE}]})
