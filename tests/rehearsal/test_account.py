"""Facts about front/book.py and engine/account.py: both sides hold the same day."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ctp_runbook.rehearsal.engine.account import Account
from ctp_runbook.rehearsal.front.book import PRE_BALANCE, Book, Order

BUY = Order(1, 1, "au2512", "buy", "open", 1, 550.0, immediate=False)


def feed(account: Account, *messages: dict[str, Any]) -> None:
    """Give an account what the front pushed."""
    for message in messages:
        (account.take_trade if message["push"] == "trade" else account.take_order)(message)


def traded() -> Book:
    """A book with nine resting orders sent, of which every third was filled."""
    book = Book()
    for ref in range(1, 10):
        book.accept(replace(BUY, order_ref=ref))
    return book


def test_an_immediate_order_leaves_nothing() -> None:
    """Accepted and cancelled: latency can be measured with no position and no working order."""
    book = Book()
    statuses = [each["status"] for each in book.accept(replace(BUY, immediate=True))]
    assert statuses == ["working", "cancelled"]
    assert book.trades == []
    assert book.max_order_ref == 1


def test_a_close_is_filled_only_against_a_position() -> None:
    """Nobody is short by accident."""
    book = Book()
    close = replace(BUY, direction="sell", offset="close")
    for ref in range(1, 7):
        book.accept(replace(close, order_ref=ref))
    assert book.trades == []


def test_cancel() -> None:
    """A working order once, from any session of the user; nothing else."""
    book = Book()
    book.accept(BUY)
    cancelled = book.cancel(1, 1)
    assert cancelled is not None
    assert cancelled["status"] == "cancelled"
    assert book.cancel(1, 1) is None
    assert book.cancel(2, 1) is None


def test_the_replay_gives_an_engine_what_the_live_stream_gave() -> None:
    """Folded live or from the replay: the same positions, funds and working orders."""
    book, live = Book(), Account()
    for ref in range(1, 10):
        feed(live, *book.accept(replace(BUY, order_ref=ref)))
    replayed = Account()
    feed(replayed, *book.replay(extra=0))
    assert replayed.positions() == live.positions() != []
    assert replayed.funds({}) == live.funds({})
    assert sorted(replayed.working) == sorted(live.working) != []


def test_padding_changes_nothing_but_the_length() -> None:
    """A replay made long on purpose must not make the handover comparison fail."""
    short, long = Account(), Account()
    book = traded()
    feed(short, *book.replay(extra=0))
    feed(long, *book.replay(extra=50))
    assert len(book.replay(extra=50)) == len(book.replay(extra=0)) + 50
    assert long.positions() == short.positions()
    assert long.working == short.working


def test_positions_and_funds_are_told_in_the_domains_words() -> None:
    """By instrument, direction and hedge flag; funds only in fields that do not float."""
    account = Account()
    feed(account, *traded().replay(extra=0))
    assert account.positions() == [
        {"instrument": "au2512", "direction": "long", "hedge_flag": "speculation", "volume": 3}
    ]
    funds = account.funds({"pre_balance": PRE_BALANCE})
    assert list(funds) == ["PreBalance", "Deposit", "Withdraw", "CloseProfit", "Commission"]
    assert (funds["PreBalance"], funds["Commission"]) == (PRE_BALANCE, 3.75)


def test_a_new_replay_starts_from_nothing() -> None:
    """Else every reconnect would double the position."""
    account = Account()
    for _ in range(2):
        account.clear()
        feed(account, *traded().replay(extra=0))
    assert [each["volume"] for each in account.positions()] == [3]
