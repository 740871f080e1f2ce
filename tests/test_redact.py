"""Secrets are masked by value, by the name beside them, and by the shape of a URL."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctp_runbook import redact
from ctp_runbook.model import Outcome, State
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.plan.template_keys import SLI_NAMES
from ctp_runbook.redact import MASK, Redactor, is_secret_name, literal_secrets

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
    "cookies": "Cookie: a" * 8_000,
    "cookies without end": "Cookie: " + "a" * 80_000,
    "headers that log in": "authorization: a1 " * 4_000,
    "headers with long words": "authorization: " + "a" * 40_000 + " " + "b" * 40_000,
    "signatures": "?sig=" * 16_000,
    "signatures of long names": "?x-" + "a-" * 40_000 + "sig=",
    "passwords with slashes": "://a:b/" * 12_000 + "@",
    "ports that are none": "://a:123456" * 8_000,
    "dumps": "6a 6b " * 14_000,
    "dumps that end": "6a6b 6c6d zz" * 8_000,
    "lines": ("x" * 50 + "\n") * 2_000,
    "lines in JSON": ("x" * 50 + "\\n") * 2_000,
    "commands": "curl -u a:b " * 8_000,
    "options": "--pass a " * 10_000,
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


def _dump(joint: str, octets: bytes) -> str:
    return joint.join(f"{octet:02x}" for octet in octets)


SIGNED_SECRET = "Zk9%q7&Wx<Lm'2 vT\"/+="
ENCODED = {
    "hex": SIGNED_SECRET.encode().hex(),
    "hex, large": SIGNED_SECRET.encode().hex().upper(),
    "a dump by colons": _dump(":", SIGNED_SECRET.encode()),
    "a dump by blanks": _dump(" ", SIGNED_SECRET.encode()),
    "octets as a URL has them": "%" + _dump("%", SIGNED_SECRET.encode()),
    "octets as Python has them": "\\x" + _dump("\\x", SIGNED_SECRET.encode()),
    "octets as C has them": "0x" + _dump(", 0x", SIGNED_SECRET.encode()),
    "a dump by pairs": re.sub("(....)", r"\1 ", SIGNED_SECRET.encode().hex()),
    "small percents": re.sub("%..", lambda m: m[0].lower(), quote(SIGNED_SECRET, safe="")),
    "a form's percents": quote_plus(SIGNED_SECRET),
    "HTML": html.escape(SIGNED_SECRET),
    "JSON": json.dumps(SIGNED_SECRET),
    "shell": shlex.quote(SIGNED_SECRET),
}


@pytest.mark.parametrize("printed", ENCODED.values(), ids=ENCODED)
def test_a_secret_is_masked_in_each_form(printed: str) -> None:
    """Nothing of it is left but the signs that stood around it."""
    masked = Redactor.of([SIGNED_SECRET])(f"it is {printed} indeed")
    assert re.fullmatch(r"it is [\"'%\\0x]*\*\*\*[\"']? ?indeed", masked.replace("  ", " "))


@pytest.mark.parametrize("begun", range(4))
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("columns", [0, 76, 80])
def test_base64_is_masked_wherever_it_begins_and_ends(
    begun: int, encode: Callable[[bytes], bytes], columns: int
) -> None:
    """Plain and for URLs, with and without padding, at each of its three places, wrapped or not."""
    text = encode(b"a" * (begun + 51) + SIGNED_SECRET.encode() + b"tail").decode()
    lines = [text[at : at + columns] for at in range(0, len(text), columns)] if columns else [text]
    for form in ("\n".join(lines), "\\n".join(lines), "\r\n  ".join(lines).rstrip("=")):
        assert Redactor.of([SIGNED_SECRET])(f"{form}\n") == f"{MASK}\n"


@pytest.mark.parametrize("columns", [40, 76, 80, 143])
@pytest.mark.parametrize("joint", ["\n", "\r\n", "\\\n", "=\n", "\n    "])
def test_the_end_of_a_line_hides_nothing(columns: int, joint: str) -> None:
    """A secret is masked wherever in it a line was wrapped; the text around it stays, wrapped."""
    secret = "Zk9q7Wx2Lm4vT8"
    for begun in range(columns - len(secret) - 1, columns + 1):
        text = "x" * begun + secret + "y" * (2 * columns)
        lines = [text[at : at + columns] for at in range(0, len(text), columns)]
        masked = Redactor.of([secret])(joint.join(lines))
        assert (
            not set(re.findall("[A-Za-z0-9]+", masked))
            - {"x" * n for n in range(200)}
            - {"y" * n for n in range(400)}
        ), masked
        assert masked.count(MASK) == 1
        assert masked.count(joint) >= len(lines) - 2


def test_short_lines_are_no_wrapped_ones() -> None:
    """Words of a list are not put together to somebody's password."""
    text = "hunter\n22\nhun\nter22\n"
    assert Redactor.of(["hunter22"])(text) == text


HEADERS = {
    "a scheme of its own": ("Authorization: ApiKey abc12345 x", f"Authorization: {MASK} x"),
    "digest": ('Authorization: Digest username="a", response="b"', f"Authorization: Digest {MASK}"),
    "a proxy's": ("Proxy-Authorization: Basic Zm9v", f"Proxy-Authorization: Basic {MASK}"),
    "cookie": ("-H 'Cookie: a=b; c=d' x", f"-H 'Cookie: {MASK}' x"),
    "cookie that is set": ("Set-Cookie: SID=abc; Path=/\nx", f"Set-Cookie: {MASK}\nx"),
    "cookie in JSON": ('{"Cookie": "a=b", "u": 1}', '{"Cookie": "' + MASK + '", "u": 1}'),
    "signature": (
        "GET https://h/c?sv=1&sig=Ab%2F%3D&se=2",
        f"GET https://h/c?sv=1&sig={MASK}&se=2",
    ),
    "signature in HTML": ("h/c?a=1&amp;sig=Ab", f"h/c?a=1&amp;sig={MASK}"),
    "Amazon's": ("h/c?X-Amz-Signature=0a1b", f"h/c?X-Amz-Signature={MASK}"),
    "key": ("https://h/?key=AIza&q=1", f"https://h/?key={MASK}&q=1"),
    "a slash in a password": ("redis://:pa/ss@host/0", f"redis://{MASK}@host/0"),
    "a question in a password": ("amqp://u:p?x#y@h/z", f"amqp://{MASK}@h/z"),
}


@pytest.mark.parametrize(("text", "masked"), HEADERS.values(), ids=HEADERS)
def test_what_logs_in_is_masked(text: str, masked: str) -> None:
    """By the words around it, whoever announced it; a second time changes nothing more."""
    assert Redactor()(text) == masked
    assert Redactor()(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "cookie: a thing to eat; cookies: none",
        "kill sig=9, sig=SIGTERM; key=1 of a table",
        "http://host:80/a@b and http://host/a:b@c",
        "2026-11-24T10:00:01 12:34:56 10-11-12",
        "the authorization was refused",
    ],
)
def test_words_that_only_sound_like_it_stay(text: str) -> None:
    """A key, a signal, a time of day."""
    assert Redactor.of(["hunter22"])(text) == text


CONFIGURATIONS = {
    "YAML": "ctp:\n  password: 'hun''ter22' # why\n  user: ann\n",
    "YAML, bare": "auth_code: hun'ter22  # comment\n",
    "YAML, block": "a:\n  private_key: |\n    hun'ter22\n  user: ann\n",
    "JSON": '{"ctp": {\n "PassWord" : "hun\'ter22",\n "user": "ann"}}',
    "JSON, one line": '{"password": "hun\'ter22", "user": "ann"}',
    "JSON, escaped": '{\n"a_token": "hun\\u0027ter22" }',
    "TOML": "[ctp]\nPassword = \"hun'ter22\"\nuser = 'ann'\n",
    "INI": "[ctp]\nAuthCode=hun'ter22\nuser=ann\n",
    "INI, pwd": "pwd = hun'ter22\n",
    "XML": "<ctp><Password type='x'>hun'ter22</Password><user>ann</user></ctp>",
}


@pytest.mark.parametrize("text", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_secrets_of_a_configuration_are_masked(text: str) -> None:
    """By the name of their keys, whatever its syntax; the others are none."""
    redactor = Redactor.gather(environ={}, config=text)
    assert redactor("hun'ter22 of ann") == f"{MASK} of ann"


def test_user_info_of_a_configuration_is_masked() -> None:
    """The address of a database, under whatever key."""
    redactor = Redactor.gather(environ={}, config="database: postgres://ann:hunter22@host/db\n")
    assert redactor("hunter22 of ann") == f"{MASK} of ann"


def test_a_configuration_names_a_variable() -> None:
    """``password_env`` says whose value is the secret, and holds none."""
    config = 'ctp:\n  password_env: CTPPWD\n  auth_code_env: "NOT_SET"\n'
    redactor = Redactor.gather(environ={"CTPPWD": "hunter22"}, config=config)
    assert redactor("hunter22 CTPPWD NOT_SET") == f"{MASK} CTPPWD NOT_SET"


@pytest.mark.parametrize(
    "word",
    [
        *("prod", "redis", "Postgres", "engine", "operator"),
        *("alive", "session", "quant_hft", "trading_core", "new-core-engine"),
    ],
)
def test_an_ordinary_word_is_masked_by_its_name_alone(word: str) -> None:
    """Somebody's password is the name of the environment, or of a user: sentences stay readable."""
    redactor = Redactor.gather(environ={"DB_PASSWORD": word}, texts=[f"redis://a:{word}@h"])
    assert redactor(f"the {word} stack") == f"the {word} stack"
    assert (
        redactor(f"DB_PASSWORD={word} redis://a:{word}@h") == f"DB_PASSWORD={MASK} redis://{MASK}@h"
    )


def test_a_word_that_stands_in_the_open_is_ordinary() -> None:
    """What names a user, a database or the environment cannot be hidden; anything else can."""
    environ = {"CUTOVER_ENV_NAME": "shanghai", "A_PASSWORD": "shanghai", "B_PASSWORD": "hongkong"}
    assert Redactor.gather(environ=environ)("shanghai hongkong") == f"shanghai {MASK}"


def test_a_phrase_of_ordinary_words_is_a_secret() -> None:
    """Pass phrases are made of such."""
    phrase = "market-order-watch-trade"
    assert Redactor.gather(environ={"A_PASSWORD": phrase})(f"x {phrase}") == f"x {MASK}"


def test_a_name_of_two_words_may_stand_in_the_open_too() -> None:
    """A database and its user are called so all day; a password with a digit in it is one."""
    environ = {"APP_DB": "blue_desk", "APP_USER": "desk42", "A_TOKEN": "blue_desk"}
    redactor = Redactor.gather(environ={**environ, "B_TOKEN": "desk42"})
    assert redactor("blue_desk_pg desk42") == f"blue_desk_pg {MASK}"


def test_our_own_words_are_ordinary() -> None:
    """Whoever takes one of them for a password still reads what the tool says of a run."""
    names = [*SLI_NAMES, *(step.name for step in STEP_TABLE)]
    names += [each.value for each in (*State, *Outcome)]
    words = [word for name in names for word in name.lower().split("_")]
    masked = Redactor.gather(environ={f"P{n}_PASSWORD": word for n, word in enumerate(words)})
    assert masked.secrets == frozenset()


def test_a_word_that_is_listed_is_masked() -> None:
    """``redact`` of limits.toml is a person's decision."""
    assert Redactor.gather(environ={}, extra=["prod"])("the prod stack") == f"the {MASK} stack"


LITERAL = {
    "curl -u ops:hunter22 h": ["-u"],
    "PGPASSWORD=hunter22 psql": ["PGPASSWORD"],
    "tool --token hunter22; mysql -phunter22": ["--token", "-p"],
    "psql postgres://a:hunter22@h/db": ["postgres://"],
    "echo known-secret": ["echo"],
    'curl -u "ops:$PW" h': [],
    'PGPASSWORD="$PW" psql --token $T': [],
    "tool --password <password> --token-file /run/x": [],
    'mysql -p$PW; sshpass -p "$(cat f)" ssh h': [],
    "redis-cli -u redis://:$PW@h": [],
    "git clone ssh://git@host/x": [],
    "git clone https://ghp_0a1b2c@host/x": ["https://"],
}


@pytest.mark.parametrize(("command", "words"), LITERAL.items(), ids=LITERAL)
def test_a_secret_in_a_command_is_found(command: str, words: list[str]) -> None:
    """By the words before it; what only names one, a variable or a file, is none."""
    assert list(literal_secrets(command, Redactor.of(["known-secret"]))) == words


_NEAR_NAMES = (
    *(
        "a",
        "A",
        "_",
        "-",
        " ",
        "\n",
        ":",
        "=",
        "'",
        '"',
        "\\",
        "pass",
        "PASSWORD",
        "ſecret",
        "toKen",
    ),
    *(
        "AUTH_CODE",
        "apikey",
        "apİ-key",
        "to\u212aen",
        "ß",
        "✗",
        "private-key",
        "passwd",
        "authcode",
    ),
)


@given(st.lists(st.sampled_from(_NEAR_NAMES)).map("".join))
def test_a_name_is_looked_for_where_it_may_begin_as_if_everywhere(text: str) -> None:
    """Whatever folds into its letters, and however long other letters become."""
    everywhere = re.finditer(redact._NAMED_SIGN, text, re.IGNORECASE)
    assert any(match[1] for match in redact._named_signs(text)) == any(
        match[1] for match in everywhere
    )


def test_which_letters_fold_into_a_names_is_known() -> None:
    """Beyond ASCII there are four, of which upper() turns two into the letter."""
    beyond = "".join(map(chr, range(128, 0x110000)))
    folding = set(re.findall("[a-z]", beyond, re.IGNORECASE))
    assert {each for each in folding if not each.upper().isascii()} == set(redact._FOLDED)
