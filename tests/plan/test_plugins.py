"""Facts about plan/plugins.py: a row of another distribution is found by name, or refused with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ConfigError, PlanRefused
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.plugins import find_row, installed_names
from ctp_runbook.plan.sources import SOURCE_GROUP, SOURCES, Source, find_source
from tests.plan.test_config import WATCH

ROW = 'Source("far_away", "faraway{n}:measure", settings=("far_away_url",))'
MODULE = """
from ctp_runbook.plan.sources import Source
def measure(rule, around): return lambda: 1.0
ROW = {row}
"""
IMPORTED = iter(range(1000))


def install(folder: Path, text: str = "", *, row: str = ROW, name: str = "faraway") -> None:
    """A distribution in ``folder`` as pip would leave it, with the entry point ``far_away``."""
    n = next(IMPORTED)  # what was imported once is not imported anew
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{SOURCE_GROUP}]\nfar_away = faraway{n}:ROW\n")
    module = folder / f"faraway{n}.py"
    module.write_text(text or MODULE.format(row=row).replace("{n}", str(n)))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python imports from."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_nobodys_name_is_nobodys(site: Path) -> None:
    """A name that no distribution offers is no row, and no error."""
    assert find_source("far_away") is None


def test_a_row_of_another_distribution_is_found(site: Path) -> None:
    """Its entry point is listed, and its row is the one that it names."""
    install(site)
    assert "far_away" in installed_names(SOURCE_GROUP)
    assert find_source("far_away") == find_row(SOURCE_GROUP, "far_away", kind=Source)
    assert getattr(find_source("far_away"), "settings", ()) == ("far_away_url",)


BROKEN = {
    "does not import": ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
    "raises": ("raise RuntimeError('sorry')", "RuntimeError: sorry"),
    "has no row": ("x = 1", "has no attribute 'ROW'"),
    "another type": ("ROW = 'text'", "it is a str, expected a Source"),
    "another name": (
        MODULE.format(row='Source("near", "json:loads")'),
        "its row is named 'near', expected 'far_away'",
    ),
    "no performer": (
        MODULE.format(row='Source("far_away", "nowhere_at_all:x")'),
        "No module named 'nowhere_at_all'",
    ),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plug_in_is_refused_by_name(text: str, said: str, site: Path) -> None:
    """The sentence has the distribution, the entry point, what is wrong and what to do."""
    install(site, text)
    with pytest.raises(PlanRefused) as caught:
        find_source("far_away")
    assert said in str(caught.value)
    assert "of faraway 1.2 cannot be used" in str(caught.value)
    assert "mend that distribution, or uninstall it" in str(caught.value)


def test_two_that_bring_one_name_are_refused(site: Path) -> None:
    """Which of them is meant is not guessed."""
    install(site)
    install(site, name="other")
    with pytest.raises(PlanRefused, match=r"faraway 1\.2 and other 1\.2; uninstall all but one"):
        find_source("far_away")


def test_a_page_is_no_plug_ins(site: Path) -> None:
    """A record with one could not be judged where the plug-in is not."""
    install(site, row='Source("far_away", "json:loads", is_page=True)')
    with pytest.raises(PlanRefused, match="only engines' are"):
        find_source("far_away")


def watch_of(tmp_path: Path, **replaced: str) -> Path:
    """The shipped rules with the Kafka metric taken from afar."""
    text = WATCH.replace('source = "kafka"', 'source = "far_away"')
    for old, new in replaced.items():
        text = text.replace(f"{old} = ", new, 1)
    file = tmp_path / "watch.toml"
    file.write_text(text)
    return file


def test_a_rule_may_name_it_and_say_its_settings(site: Path, tmp_path: Path) -> None:
    """Its keys of [sources] are known as soon as a rule asks it."""
    install(site)
    rules = load_watch(watch_of(tmp_path, clickhouse_user='far_away_url = "x"\nclickhouse_user = '))
    assert rules.metrics["kafka_lag_ms"].source == "far_away"
    assert rules.sources["far_away_url"] == "x"


def test_the_settings_of_what_nobody_asks_are_unknown(site: Path, tmp_path: Path) -> None:
    """What is installed and not named by a rule is not even looked for."""
    install(site, "raise RuntimeError('never imported')")
    file = tmp_path / "watch.toml"
    file.write_text(WATCH.replace("[sources]\n", '[sources]\nfar_away_url = "x"\n'))
    with pytest.raises(ConfigError, match=r"sources\.far_away_url: found an unknown key"):
        load_watch(file)


def test_an_unknown_source_is_refused_with_all_that_are_known(site: Path, tmp_path: Path) -> None:
    """The list has what is installed, too."""
    install(site)
    file = tmp_path / "watch.toml"
    file.write_text(WATCH.replace('source = "kafka"', 'source = "kavka"'))
    known = ", ".join((*SOURCES, "far_away"))
    with pytest.raises(ConfigError, match=f"found 'kavka'; expected one of {known}"):
        load_watch(file)


def test_a_broken_plug_in_is_a_problem_of_the_rule(site: Path, tmp_path: Path) -> None:
    """The line of the rule and the name of the distribution stand in one sentence."""
    install(site, "raise RuntimeError('sorry')")
    with pytest.raises(ConfigError, match=r"metrics\.kafka_lag_ms\.source: .* faraway 1\.2"):
        load_watch(watch_of(tmp_path))
