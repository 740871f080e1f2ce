"""Secrets at the border: masked however they are printed; what only says where one is stays."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.redact import MASK, Redactor, is_secret_name

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "border/redaction"
EXPECT: dict[str, Any] = tomllib.loads((FOLDER / "expect.toml").read_text("utf-8"))
PRINTED = [(case["secret"], text) for case in EXPECT["secrets"] for text in case["printed"]]
EVERYBODY = Redactor.of(case["secret"] for case in EXPECT["secrets"])
SHIPPED = sorted(
    path
    for folder in ("configs", "infra/env", "infra/kafka")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".toml", ".env")
)


@pytest.mark.parametrize(("secret", "text"), PRINTED, ids=[text for _, text in PRINTED])
def test_a_secret_is_masked_as_it_is_printed(secret: str, text: str) -> None:
    """What is left is what stood around it: none of its words, no word as long as an encoded one."""
    masked = Redactor.of([secret])(text)
    assert MASK in masked
    left = re.findall("[A-Za-z0-9]{2,}", masked)
    assert not set(left) & set(re.findall("[A-Za-z0-9]{2,}", secret))
    assert max(map(len, left), default=0) < 6
    assert Redactor.of([secret])(masked) == masked


@pytest.mark.parametrize("text", [text for _, text in PRINTED])
def test_several_secrets_do_not_hide_each_other(text: str) -> None:
    """One redactor knows them all."""
    assert MASK in EVERYBODY(text)


@pytest.mark.parametrize("case", EXPECT["shapes"], ids=lambda case: case["printed"])
def test_a_secret_nobody_announced_is_masked_by_its_name(case: dict[str, str]) -> None:
    """Within quotes, and in quotes within quotes; a second time changes nothing more."""
    assert Redactor()(case["printed"]) == case["masked"]
    assert Redactor()(case["masked"]) == case["masked"]


@pytest.mark.parametrize("text", EXPECT["stays"]["lines"])
def test_what_is_no_secret_stays(text: str) -> None:
    """The name of a variable or of a file is where a secret is."""
    assert Redactor()(text) == text


@pytest.mark.parametrize("name", ["password_env", "CLICKHOUSE_PASSWORD_FILE", "api-key-file"])
def test_where_a_secret_is_is_none(name: str) -> None:
    """Its value is masked nowhere."""
    assert not is_secret_name(name)
    assert Redactor().data({name: "/run/secrets/x"}) == {name: "/run/secrets/x"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_what_is_shipped_has_no_secret(path: Path) -> None:
    """Configuration as it comes passes unchanged: in a run's plan it can be compared and read."""
    text = path.read_text("utf-8")
    assert Redactor()(text) == text
