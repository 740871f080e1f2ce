"""Every folder of corpus/ is a pair of templates with the exact words it is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import InputError
from ctp_runbook.plan.plan import load_plan

CORPUS = Path(__file__).parent / "corpus"
CONFIGS = Path(__file__).parents[2] / "configs"
CASES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())


@pytest.mark.parametrize("case", CASES)
def test_case_is_answered_in_these_words(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair is accepted, refused for real runs, or refused, with every reason at once."""
    monkeypatch.chdir(CORPUS / case)
    (tmp_path / "ctp.yaml").touch()
    assert answer(tmp_path) == (CORPUS / case / "expect").read_text(encoding="utf-8").splitlines()


def test_corpus_answers_each_way() -> None:
    """The corpus holds accepted pairs, refused ones, and ones only --execute refuses."""
    answers = [(CORPUS / case / "expect").read_text(encoding="utf-8") for case in CASES]
    assert len(CASES) >= 40
    for beginning in ("accepted\n", "refused\n", "accepted\nrefuses --execute: "):
        assert any(text.startswith(beginning) for text in answers)


def answer(base: Path) -> list[str]:
    """What is said of the templates in the current directory; the file names stay relative."""
    try:
        plan = load_plan(
            Path("cutover.env"),
            Path("rollback.env"),
            limits=CONFIGS / "limits.toml",
            watch=CONFIGS / "watch.toml",
            environ={"PATH": "/usr/bin:/bin"},
            base=base,
        )
    except InputError as error:
        return ["refused", *(problem.sentence for problem in error.problems)]
    return ["accepted", *(f"refuses --execute: {reason}" for reason in plan.execute_refusals)]
