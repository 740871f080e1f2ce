"""The old engine sampled from the first gate to the first stop, into a file of its own.

Of the old stack only its /metrics page is read. No page is no baseline, said plainly; it fails
nothing by itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial

from msgspec import structs

from ctp_runbook.host.seam import Kept
from ctp_runbook.model import Generation, Role
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.kinds import BaselineEnded
from ctp_runbook.record.samples import Sample, cut_torn_line, read_samples, without_secrets
from ctp_runbook.run.context import READING_SECONDS, RunContext
from ctp_runbook.watch.sampler import Sampler, Target, read_once
from ctp_runbook.watch.sources import watch_targets
from ctp_runbook.watch.verdicts import missing_buckets

__all__ = ["OldEngineSampling", "warn_of_buckets"]

_TICK_SECONDS = 0.1


class OldEngineSampling:
    """Samples the old engine from the first gate to the first stop, into a file of its own."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._done = threading.Event()
        self._open = contextlib.ExitStack()
        self._file: Kept  # from the start on
        self._page: Sample | None = None  # the first that came whole
        self._path = context.run.baseline
        self._url = context.plan.member(Generation.OLD, Role.CORE_ENGINE).metrics_url
        self._sampler = Sampler(list(_targets(context, self._url)), clocks=context.world.clock)
        # A thread of its own: gates wait for their commands, and a queue that nobody empties
        # meanwhile would be lost with the process.
        self._writer = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        """Begin; a run taken up again goes on in the same file."""
        self._context.beat(READING_SECONDS)
        cut_torn_line(self._path)
        self._next_seq = len(read_samples(self._path))
        # Made now: no sample at all is a file without any. Open to the end, whoever takes it away.
        self._file = self._open.enter_context(self._context.world.files.appending(self._path))
        self._sampler.start()
        self._writer.start()

    def warn_of_buckets(self) -> None:
        """Tell of limits that the old engine's histograms have no bucket at: before the go there is
        time to give the new engine's one. What was sampled is enough: nobody waits for a page."""
        if self._page is not None:
            _warn_of_buckets(self._context, self._page)

    def end(self) -> None:
        """Stop, and write down what came; nothing is asked of the old engine after this."""
        self._sampler.stop()
        self._done.set()
        self._writer.join()
        self._context.beat(READING_SECONDS)
        with self._open:
            data = self._file.read()
            with contextlib.suppress(OSError):  # that it is gone is told by who watches the folder
                self._file.put_back()
        self._context.record(
            BaselineEnded(
                url=self._url,
                samples=data.count(b"\n"),
                samples_sha256=digest_of(data),
                sentence=_sampled(self._url, read_samples(self._path)),
            )
        )

    def _write(self) -> None:
        while not self._done.is_set():
            if (sample := self._sampler.take(seconds=_TICK_SECONDS)) is None:
                continue
            numbered = structs.replace(sample, seq=self._next_seq)
            self._file(without_secrets(numbered, self._context.plan.redactor).to_line())
            if self._page is None and sample.ok and sample.source == "engine":
                self._page = sample
            self._next_seq += 1


def warn_of_buckets(context: RunContext) -> None:
    """Look at the pages that are there before the switch, once, for limits without a bucket."""
    url = context.plan.member(Generation.OLD, Role.CORE_ENGINE).metrics_url
    for target in _targets(context, url):
        if target.source == "engine":
            _warn_of_buckets(context, read_once(target, clocks=context.world.clock))


def _warn_of_buckets(context: RunContext, page: Sample) -> None:
    for sentence in missing_buckets(context.plan.watched, context.plan.trigger, page):
        context.warn(sentence)


def _targets(context: RunContext, url: str) -> Iterator[Target]:
    engine = [rule for rule in context.plan.watched if rule.source == "engine"]
    if engine and url:
        families = sorted({family for rule in engine for family in rule.families})
        interval = min(rule.interval_seconds for rule in engine)
        patience = min(rule.patience_seconds for rule in engine)
        scrape = context.world.pages.scrape
        page = partial(scrape, url, families=families, seconds=patience)
        yield Target("engine", url, page, interval)
        others = watch_targets(context.plan, cwd=context.cwd, environ=context.environment_of())
        yield from (target for target in others if target.is_shared)


def _sampled(url: str, samples: tuple[Sample, ...]) -> str:
    """What came of the old engine, in words."""
    if not url:
        return "no baseline: the old engine has no metrics page (G_CORE_ENGINE_METRICS_URL)"
    engine = [sample for sample in samples if sample.source == "engine"]
    good = [sample for sample in engine if sample.ok]
    if not good:
        why = engine[-1].error if engine else "no metric of the watch is on an engine's page"
        return f"no baseline: {url} gave nothing in {len(engine)} scrapes: {why}"
    span = good[-1].mono - good[0].mono
    return f"{len(good)} of {len(engine)} scrapes of the old engine over {span:.0f} s"
