"""Secrets behind options that only their command explains, on a command line or in a list of words."""

from __future__ import annotations

import time

import pytest

from ctp_runbook.redact import Redactor
from ctp_runbook.secret_words import _OPTIONS, option_spans

MASKED = (
    ("curl -u ops:hunter22 http://h/", "curl -u *** http://h/"),
    ("+ curl -sSfu ops:hunter22 http://h/", "+ curl -sSfu *** http://h/"),
    ("curl -uops:hunter22 h; date -u +%H:%M", "curl -u*** h; date -u +%H:%M"),
    ('curl -s "http://h/?a=1&b" --user ops:hunter22', 'curl -s "http://h/?a=1&b" --user ***'),
    ("curl --user=ops:hunter22 h", "curl --user=*** h"),
    ("curl --proxy-user ops:hunter22 h", "curl --proxy-user *** h"),
    ("curl -b 'sid=abc; b=c' h", "curl -b *** h"),
    ("curl --cookie sid=abc h", "curl --cookie *** h"),
    ("curl -u \\\n  ops:x h", "curl -u \\\n  *** h"),
    ("bash -c 'curl -u \"ops:hun ter\" h' && ls", "bash -c 'curl -u *** h' && ls"),
    ("curl -s h | tee x; /usr/bin/curl -u a:b h", "curl -s h | tee x; /usr/bin/curl -u *** h"),
    ("mysql -h db -P 3306 -u root -phunter22 quant", "mysql -h db -P 3306 -u root -p*** quant"),
    ("sshpass -p hunter22 ssh -p 22 ops@host", "sshpass -p *** ssh -p 22 ops@host"),
    ("sshpass -phunter22 ssh host", "sshpass -p*** ssh host"),
    ("redis-cli -h h -a hunter22 ping", "redis-cli -h h -a *** ping"),
    ("redis-cli --pass hunter22 ping", "redis-cli --pass *** ping"),
    ("tool --pass=hunter22 --user ops", "tool --pass=*** --user ops"),
    ("tool --pass 'hun ter' x", "tool --pass *** x"),
    ("openssl rsa -passin pass:hunter22 -in k", "openssl rsa -passin *** -in k"),
    ("docker login -u me -p hunter22 reg", "docker login -u me -p *** reg"),
    (
        "Command '['curl', '-u', 'ops:hunter22', 'h']' failed",
        "Command '['curl', '-u', '***', 'h']' failed",
    ),
    ('["tool", "--pass", "hunter22", "h"]', '["tool", "--pass", "***", "h"]'),
)
STAY = (
    "mkdir -p /var/lib/x && docker run -p 80:80 image",
    "curl -b jar.txt -u ops -o out https://host/path",
    "mysql -h db -u root -p quant",
    "ssh -p 2222 host; psql -U ann -p 5432; sort -u a:b",
    "git push -u origin main; kill -9 3; echo -u a:b",
    "tool --user ops --pass-file /run/x --passive",
    "redis-cli -h h ping",
    "a curl of the page - u see",
    "sshpass -e ssh host",
)


@pytest.mark.parametrize(("text", "masked"), MASKED, ids=[text for text, _ in MASKED])
def test_the_value_is_masked_and_nothing_else(text: str, masked: str) -> None:
    """What stands around it stays; a second time changes nothing more."""
    assert Redactor()(text) == masked
    assert Redactor()(Redactor()(text)) == Redactor()(text)


@pytest.mark.parametrize("text", STAY)
def test_ports_folders_and_names_stay(text: str) -> None:
    """The same letter is no secret to another command, nor a name without a password."""
    assert list(option_spans(text)) == []


LONG = {
    "commands": "curl -u " * 20_000,
    "words": "curl " + "-x y " * 40_000,
    "quotes": "curl '" + "\"'" * 40_000,
    "options": "--pass " * 20_000,
    "one word": "curl -u " + "a:" * 100_000,
    "dollars": "curl " + "$(" * 50_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_lines_take_linear_time(text: str) -> None:
    """A program may print anything, by the megabyte."""
    began = time.process_time()
    list(option_spans(text))
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("command", _OPTIONS)
def test_the_quick_look_misses_no_command(command: str) -> None:
    """Where nothing is looked for, there is no option of any of them."""
    letter = _OPTIONS[command][0][0]
    word = f"-{letter}a:b=c" if "+" in _OPTIONS[command][0] else f"-{letter} a:b=c"
    for text in (f"{command} login {word}", f"x; /usr/bin/{command} login {word}"):
        assert Redactor()(text).endswith("***")
    listed = "', '".join([command, "login", *word.split(" ")])
    assert Redactor()(f"['{listed}']").endswith("***']")
