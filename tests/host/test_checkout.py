"""Facts about host/checkout.py: what lies here comes first, then what lies beside the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import ctp_runbook
from ctp_runbook.host.checkout import CHECKOUT, find_here


def test_the_checkout_holds_the_package() -> None:
    """It is the folder that another process must import from."""
    assert Path(ctp_runbook.__file__).resolve().is_relative_to(CHECKOUT / "ctp_runbook")


def test_here_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the working directory is named as relatively as it was asked for."""
    monkeypatch.chdir(tmp_path)
    assert find_here("configs/limits.toml") == CHECKOUT / "configs/limits.toml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/limits.toml").touch()
    assert find_here(Path("configs") / "limits.toml") == Path("configs/limits.toml")
    assert find_here("configs/nothing.toml") is None
