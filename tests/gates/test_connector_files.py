"""The connectors' files: filled in here, compared key by key, and no secret in any sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ConfigError
from ctp_runbook.gates.connector_files import Difference, differences, load_connectors

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "connector.class": "X",
    "tasks.max": 1,
    "database.password": "${PG_PASSWORD}",
    "topic.prefix": "${env:PREFIX}",
    "slot.name": "s",
    "publication.name": "p",
    "table.include.list": "a.b, a.c",
}


def _file(tmp_path: Path, content: object) -> Path:
    (tmp_path / "one.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    "content", [{"name": "one", "config": CONFIG}, {"name": "one", **CONFIG}, CONFIG]
)
def test_both_forms_are_read(content: object, tmp_path: Path) -> None:
    """With or without the outer object; the name is the file's where none is given."""
    (one,) = load_connectors(_file(tmp_path, content), values={"PG_PASSWORD": "geheim"})
    assert one.name == "one"
    assert (one.slot, one.publication, one.tables) == ("s", "p", ("a.b", "a.c"))
    assert one.config["tasks.max"] == "1"


def test_our_placeholders_are_filled_and_connects_own_are_not(tmp_path: Path) -> None:
    """${NAME} is filled in this process; ${env:NAME} is for Connect's provider; repr shows neither."""
    (one,) = load_connectors(_file(tmp_path, CONFIG), values={"PG_PASSWORD": "geheim"})
    assert one.config["database.password"] == "geheim"
    assert one.config["topic.prefix"] == "${env:PREFIX}"
    assert "geheim" not in repr(one)


def test_keys_may_be_set_over_the_file(tmp_path: Path) -> None:
    """--set KEY=VALUE wins over the file."""
    (one,) = load_connectors(
        _file(tmp_path, CONFIG), values={"PG_PASSWORD": "x"}, over={"slot.name": "other"}
    )
    assert one.slot == "other"


BAD: dict[str, tuple[object, str]] = {
    "a placeholder without a value": (CONFIG, "PG_PASSWORD in the environment or the env file"),
    "no connector": ({"name": "x"}, "connector.class"),
    "a list": ([1], "connector.class"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused(content: object, said: str, tmp_path: Path) -> None:
    """What cannot be a connector is refused before Connect is asked."""
    with pytest.raises(ConfigError, match=said):
        load_connectors(_file(tmp_path, content), values={})


def test_no_json_and_no_file_are_refused(tmp_path: Path) -> None:
    """Torn JSON, and an empty folder."""
    with pytest.raises(ConfigError, match=r"no \*\.json"):
        load_connectors(tmp_path, values={})
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(ConfigError, match="no JSON"):
        load_connectors(tmp_path, values={})


def test_differences_are_told_key_by_key() -> None:
    """What is other, missing and too much is told; `name` and a masked secret are no difference."""
    live = {"name": "x", "a": "1", "extra": "y", "db.password": "old", "token": "***"}
    wanted = {"a": "2", "b": "3", "db.password": "new", "token": "t"}
    assert [one.sentence for one in differences(live, wanted)] == [
        "a is '1', expected '2'",
        "b is not set, expected '3'",
        "db.password differs (not shown)",
        "extra is 'y', expected not set",
    ]
    assert Difference("api_key", "s1", "s2").sentence == "api_key differs (not shown)"


def test_the_shipped_connectors_keep_their_password_with_connect() -> None:
    """Both files leave the password to Connect's own provider, so none is ever in our hands."""
    found = load_connectors(ROOT / "infra/debezium", values={})
    assert [one.name for one in found] == ["ops-audit-connector", "trading-core-connector"]
    assert {one.config["database.password"] for one in found} == {"${env:DEBEZIUM_PASSWORD}"}
