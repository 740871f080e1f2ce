"""Secrets are masked by value, by the name beside them, and by the shape of a URL."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctp_runbook import redact
from ctp_runbook.redact import MASK, Redactor, is_secret_name

NAMES = (
    "CTP_PASSWORD",
    "DB_PASSWD",
    "CLIENT_SECRET",
    "GITHUB_TOKEN",
    "CTP_AUTH_CODE",
    "X_API_KEY",
    "PRIVATE_KEY_PEM",
    "ctp_password",
)


@pytest.mark.parametrize("name", NAMES)
def test_value_of_a_secret_name_is_masked_wherever_it_stands(name: str) -> None:
    """The name makes the secret; the value is masked without it."""
    redactor = Redactor.gather(environ={name: "s3cret-v4lue"})
    assert redactor("login with s3cret-v4lue failed") == f"login with {MASK} failed"


@pytest.mark.parametrize("name", ["PATH", "CUTOVER_ENV_NAME", "AUTHOR", "KEYBOARD", "PASS"])
def test_other_names_are_no_secrets(name: str) -> None:
    """A value under any other name stays readable."""
    assert not is_secret_name(name)
    assert Redactor.gather(environ={name: "some-value"})("some-value") == "some-value"


SHAPES = {
    "assignment": ("PGPASSWORD=hunter2 psql", f"PGPASSWORD={MASK} psql"),
    "quoted": ("export A_TOKEN='a b' B=1", f"export A_TOKEN={MASK} B=1"),
    "option": ("login --password hunter2 --user ann", f"login --password {MASK} --user ann"),
    "option with sign": ("login --auth-code=0000 x", f"login --auth-code={MASK} x"),
    "JSON": ('{"password": "hunter2", "user": "ann"}', '{"password": ' + MASK + ', "user": "ann"}'),
    "URL": ("get http://ann:hunter2@host:80/x", f"get http://{MASK}@host:80/x"),
    "URL, at sign in password": ("redis://:a@b@host/0", f"redis://{MASK}@host/0"),
    "URL without user info": ("http://host:80/a@b", "http://host:80/a@b"),
    "header": ("Authorization: Bearer abc.def", f"Authorization: Bearer {MASK}"),
    "private key": (
        "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nrest",
        f"{MASK}\nrest",
    ),
    "no secret": ("tokens are counted, secrets are not", "tokens are counted, secrets are not"),
}


@pytest.mark.parametrize(("text", "masked"), SHAPES.values(), ids=SHAPES)
def test_secret_is_masked_by_its_shape(text: str, masked: str) -> None:
    """What nobody announced is masked where its name, or a URL, stands beside it."""
    redactor = Redactor.gather(environ={})
    assert redactor(text) == masked
    assert redactor(masked) == masked


def test_password_of_a_url_is_masked_alone_too() -> None:
    """What stood in a URL of the environment is masked where a program prints it bare."""
    redactor = Redactor.gather(environ={"DATABASE_URL": "postgres://ann:hunter22@db/x"})
    assert redactor("password hunter22 refused") == f"password {MASK} refused"


def test_secrets_of_env_files_are_masked(tmp_path: Path) -> None:
    """What infra/env/ names so is a secret, in quotes or not; a missing file is none."""
    path = tmp_path / "prodlike.env"
    path.write_text("# A_PASSWORD=comment\nexport A_PASSWORD='from file'\nUSER=ann\n\xff=\n")
    redactor = Redactor.gather(environ={}, env_files=[path, tmp_path / "missing", tmp_path])
    assert redactor("from file, ann, comment") == f"{MASK}, ann, comment"


def test_limits_toml_names_variables_or_values() -> None:
    """``redact`` may hold a variable's name, whose value is masked, or the secret itself."""
    redactor = Redactor.gather(
        environ={"CTP_INVESTOR_ID": "90001234"}, extra=["CTP_INVESTOR_ID", "plain words"]
    )
    assert redactor("90001234: plain words") == f"{MASK}: {MASK}"
    assert redactor("CTP_INVESTOR_ID") == "CTP_INVESTOR_ID"
    assert redactor.data({"CTP_INVESTOR_ID": "x"}) == {"CTP_INVESTOR_ID": MASK}


def test_secrets_in_commands_are_masked_elsewhere() -> None:
    """A password written into a template's command is masked in the command's output too."""
    redactor = Redactor.gather(environ={}, texts=["PGPASSWORD=hunter22 psql --token $T"])
    assert redactor("denied: hunter22 $T") == f"denied: {MASK} $T"


@pytest.mark.parametrize("value", ["", "1", "yes", "true", "TRUE", "none", "1000"])
def test_common_words_are_not_masked_by_value(value: str) -> None:
    """USE_TOKEN=true must not blacken every true; the assignment itself is still masked."""
    redactor = Redactor.gather(environ={"USE_TOKEN": value})
    assert redactor(f"it is {value} indeed") == f"it is {value} indeed"


def test_longer_secret_wins() -> None:
    """A secret that begins with another leaves no tail behind."""
    redactor = Redactor.of(["abcd", "abcdefgh"])
    assert redactor("abcdefgh abcd") == f"{MASK} {MASK}"


def test_lines_of_a_secret_are_secrets() -> None:
    """Output comes line by line: each line of a key is masked by itself."""
    redactor = Redactor.gather(environ={"A_PRIVATE_KEY": "first line\nsecond line"})
    assert redactor("x second line") == f"x {MASK}"


def test_data_is_masked_deeply() -> None:
    """Keys, values, lists; numbers and None pass; a value under a secret name goes whole."""
    redactor = Redactor.of(["hunter22"])
    data = {"a": ["x hunter22", 1, None], "hunter22": {"api_key": "?", "n": (True, 2.5)}}
    assert redactor.data(data) == {
        "a": [f"x {MASK}", 1, None],
        MASK: {"api_key": MASK, "n": [True, 2.5]},
    }


def test_repr_shows_no_secret() -> None:
    """A traceback that prints the redactor gives nothing away."""
    assert "hunter22" not in repr(Redactor.of(["hunter22"]))


@given(secret=st.text(min_size=4, max_size=30), before=st.text(max_size=20), after=st.text())
def test_no_secret_survives(secret: str, before: str, after: str) -> None:
    """Neither as it is, nor percent-encoded, nor a second time."""
    assume("*" not in secret + before + after)  # else the mask itself could spell a secret
    redactor = Redactor.gather(environ={"X_SECRET": secret})
    masked = redactor(f"{before}{secret}{after} {quote(secret.strip(), safe='')}")
    assert all(form not in masked.replace(MASK, "") for form in redactor.secrets if len(form) > 6)
    assert redactor(masked) == masked


ONE_WORD = "a" * 500_000 + "-token" + "_b" * 250_000
LONG = {
    "backslashes": "\\" * 40_000,
    "escaped quotes": '\\"' * 20_000,
    "values that do not end": 'password="\\' * 4_000,
    "escaped values that do not end": 'password=\\"' * 4_000,
    "a word of names": "token" * 8_000,
    "a name for each value": "password:" * 4_000,
    "a scheme that is none": "a" * 40_000 + "://@",
    "nothing behind a header": "Authorization:" + " " * 40_000,
    "nothing behind an option": "--token" + " " * 40_000,
    "quotes": "'" * 40_000,
    "percents": "%25" * 13_000,
    "entities": "&amp;" * 8_000,
    "escapes": "\\u00" * 10_000,
    "users": "://a" * 10_000 + "@",
    "keys that do not begin": "-----BEGIN " + "A " * 20_000,
}
# Of what those are made of, and letters.
AWKWARD = ("hunter22", "\\" * 4, "'" * 4, "&" * 4, "%" * 4, "p'\"\\x y")


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_lines_are_masked_in_linear_time(text: str) -> None:
    """Whatever a program prints, without a blank and by the megabyte, is no matter of minutes."""
    redactor = Redactor.of(AWKWARD)
    began = time.process_time()
    redactor(text)
    assert time.process_time() - began < 0.5


def test_a_long_word_is_left_as_it_is() -> None:
    """A megabyte that has a secret's name in it, and nothing behind, is not masked."""
    assert Redactor.of(["hunter22"])(ONE_WORD) == ONE_WORD


def _in_url(text: str) -> str:
    return quote(text, safe="")


WAYS = st.sampled_from([json.dumps, repr, ascii, shlex.quote, html.escape, _in_url])


# A quarter: each of them has a pattern of its own.
@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")) // 4)
@given(
    signs=st.lists(st.text(st.sampled_from("aZ9'\"\\&<>/%$ +:é密\t"), max_size=5), max_size=4),
    ways=st.lists(WAYS, max_size=2),
)
def test_a_secret_printed_twice_over_is_masked(signs: list[str], ways: list[Any]) -> None:
    """None of its words is left, printed any two ways; whatever stands between them."""
    secret = "hunter".join(["", *signs, ""]).strip()
    printed = secret
    for way in ways:
        printed = way(printed)
    masked = Redactor.of([secret])(f"<{printed}>")
    assert MASK in masked
    assert "hunter" not in masked


_TEXTS = st.lists(
    st.sampled_from(
        (
            *(
                "PASSWORD",
                "passwd",
                "SeCret",
                "\u017fecret",
                "to\u212aen",
                "AUTH-CODE",
                "api_key",
                "AP\u0130KEY",
            ),
            *(
                "--",
                "-",
                "_",
                " ",
                "\n",
                "\t",
                "=",
                ":",
                " = ",
                "'",
                '"',
                "\\",
                '\\"',
                "_ENV",
                "_FILE",
            ),
            *("x", "é", "user", "1", "$A", "<p>", ",", "://", "tokens"),
        )
    ),
    max_size=12,
).map("".join)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "300")), deadline=None)
@given(text=_TEXTS)
def test_the_quick_look_misses_no_assignment(text: str) -> None:
    """Where it says that nothing is assigned, the long pattern finds nothing either."""
    assert redact._may_assign(text) or re.search(redact._ASSIGNMENT, text) is None
