"""Facts about plan/sources.py: what a row says of its source is what everybody goes by."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.sources import PAGES, SOURCES, Source, Surroundings

SOURCE = Source("far", "json:loads", needs=("far_url",), labels=("zone",), kinds=("lag",))


def test_pages_are_those_of_engines() -> None:
    """An engine's page, now or then; every other source gives one value."""
    assert sorted(PAGES) == ["engine", "replay"]
    assert all(row.performer for row in SOURCES.values() if row.name not in PAGES)


LACKING = {
    "all": ({}, {}, "sources.far_url and the label zone"),
    "a setting": ({}, {"zone": "a"}, "sources.far_url"),
    "a label": ({"far_url": "x"}, {}, "the label zone"),
    "nothing": ({"far_url": "x"}, {"zone": "a"}, ""),
}


@pytest.mark.parametrize(("settings", "labels", "said"), LACKING.values(), ids=LACKING)
def test_what_is_lacking_is_named(
    settings: dict[str, str], labels: dict[str, str], said: str
) -> None:
    """As it is written in watch.toml."""
    assert SOURCE.lacking(settings, labels) == said


def test_a_rule_is_held_against_the_row() -> None:
    """A kind it does not serve, a url it does not take, and one that it must have."""
    rule = {"kind": "counter", "url": "http://x"}
    assert [key for key, _, _ in SOURCE.problems(rule)] == ["kind", "url"]
    assert [key for key, _, _ in SOURCE.problems({"kind": ["lag"]})] == []  # told by its type
    must = Source("far", "json:loads", url="must")
    assert [key for key, _, _ in must.problems({"kind": "lag"})] == ["url"]
    assert list(must.problems({"kind": "lag", "url": "http://x"})) == []


def test_a_secret_comes_from_the_environment_first(tmp_path: Path) -> None:
    """The setting names the variable; the env file is read where the environment lacks it."""
    file = tmp_path / "secrets.env"
    file.write_text("FAR_PASSWORD=from-file\n")
    settings = {"far_key_env": "FAR_PASSWORD", "env_file": str(file)}
    assert Surroundings(settings, tmp_path, {}).secret("far_key_env") == "from-file"
    around = Surroundings(settings, tmp_path, {"FAR_PASSWORD": "from-environment"})
    assert around.secret("far_key_env") == "from-environment"
    assert "from-environment" not in repr(around)
    assert Surroundings({}, tmp_path, {}).secret("far_key_env") == ""


def test_a_file_of_secrets_that_is_not_there_is_told(tmp_path: Path) -> None:
    """An unreadable file is no blank password."""
    settings = {"far_key_env": "FAR_PASSWORD", "env_file": str(tmp_path / "none.env")}
    with pytest.raises(ProbeError, match=r"none\.env cannot be read"):
        Surroundings(settings, tmp_path, {}).secret("far_key_env")
