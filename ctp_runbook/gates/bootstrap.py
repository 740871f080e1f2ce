"""The gate ``bootstrap``: every service of the compose project up, as its file says, and healthy.

Nothing that runs is restarted: ``up --no-recreate`` starts what is missing, and a running
container whose configuration is no longer that of the file fails the gate by name before anything
is started. The old engine may be using it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.gates.migrations import timescale_tasks
from ctp_runbook.gates.services import endpoint_task, redis_task
from ctp_runbook.probes.compose import Compose, Container, port_holder

__all__ = ["bootstrap_tasks"]

_CALL_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_LAST_LOOK_SECONDS = 10.0
# What Docker says of a container that another compose has just made.
_IN_USE = "is already in use by container"
# Kept of the deadline for the logs of what did not come up.
_LOGS_SECONDS = 2.0


def bootstrap_tasks(context: GateContext) -> tuple[Task, ...]:
    """Bring up and wait (where there is a compose file), migrate, and look at each service."""
    options = context.options
    tasks: list[Task] = []
    if options.compose_file and not options.is_rehearsal:
        tasks += _compose_tasks(context)
    if options.postgres_dsn or tasks:
        tasks += timescale_tasks(context)
    if options.redis_url or tasks:
        tasks.append(redis_task(context.redis_url))
    tasks += [endpoint_task(name, url) for name, url in options.endpoints.items()]
    return tuple(tasks)


def _compose_tasks(context: GateContext) -> tuple[Task, ...]:
    options = context.options
    file = options.compose_file
    if file is None or not file.is_file():
        raise RunRefused(f"--compose-file {file}: no such file; name it from here")
    if not options.project_name:
        raise RunRefused("--project-name is missing: without it nobody knows whose containers run")
    compose = Compose(file, options.project_name, options.env_file, context.values)
    gate = _ComposeGate(context, compose)
    return (
        Task("compose_config", f"compose config of {file}", gate.config, is_vital=True),
        Task("compare_running", "config hash of each container", gate.compare, is_vital=True),
        Task("compose_up", "compose up --detach --no-recreate", gate.up, acts=True, is_vital=True),
        Task("wait_healthy", "health of each container", gate.wait, is_vital=True),
    )


@dataclass(frozen=True)
class _ComposeGate:
    context: GateContext
    compose: Compose

    @property
    def seconds(self) -> float:
        return self.context.deadline.call(_CALL_SECONDS)

    def config(self) -> Observation:
        """Ask compose to take the file, passwords and all."""
        names = sorted(self.compose.hashes(seconds=self.seconds))
        return Observation({"services": ", ".join(names)})

    def compare(self) -> Observation:
        """Hold every container to the file; what does not run must find its ports free."""
        hashes = self.compose.hashes(seconds=self.seconds)
        containers = self.compose.containers(seconds=self.seconds).values()
        running = [box for box in containers if box.is_running]
        same = [box for box in running if box.config_hash == hashes.get(box.service)]
        facts = {"running": str(len(running)), "as_the_file_says": str(len(same))}
        idle = hashes.keys() - {box.service for box in running}
        problems = (*self._drifted(containers, hashes), *self._taken(idle))
        return Observation(facts, problems)

    def _running(self) -> dict[str, Container]:
        """Return the containers with a process in them, by id."""
        containers = self.compose.containers(seconds=self.seconds).values()
        return {box.id: box for box in containers if box.is_running}

    def _drifted(self, containers: Iterable[Container], hashes: Mapping[str, str]) -> Iterator[str]:
        for box in containers:
            want = hashes.get(box.service)
            if want is None:
                if box.is_running:
                    yield (
                        f"service {box.shown} runs and is not in {self.compose.file}; add it, or "
                        "stop it"
                    )
                continue
            if box.config_hash == want:
                continue
            drift = (
                f"with another configuration than {self.compose.file} says "
                f"(config hash {box.config_hash[:12] or 'none'}, expected {want[:12]})"
            )
            if box.is_running:
                yield (
                    f"service {box.shown} runs {drift}; "
                    "it is not restarted under the old engine: put the file back, or outside "
                    f"sessions run `docker compose -f {self.compose.file} -p "
                    f"{self.compose.project} up -d {box.service}`"
                )
            else:
                # `up --no-recreate` would start it as it is.
                yield (
                    f"service {box.shown} is {box.status}, made {drift}; remove it, so that it is "
                    f"made anew: `docker rm {box.name or box.id}`"
                )

    def _taken(self, idle: Collection[str]) -> Iterator[str]:
        """Yield ports of services that are not up, and who listens there."""
        published = self.compose.published(seconds=self.seconds)
        wanted = [(name, port) for name in idle for port in published.get(name, ())]
        for name, port in sorted(wanted, key=str):
            # Of a range Docker takes any port that is free.
            ports = port if isinstance(port, range) else range(port, port + 1)
            holders = [*takewhile(bool, map(port_holder, ports))]
            if len(holders) == len(ports):
                shown = f"{ports[0]}-{ports[-1]}" if len(ports) > 1 else f"{ports[0]}"
                yield (
                    f"port {shown} of service {name} is held by {holders[0]}; stop it, or give the "
                    "service another port in the env file"
                )

    def up(self) -> Observation:
        """Start what is missing; containers that ran before still run, the same ones."""
        try:
            before = self._running()
            self._start()
            after = self._running()
        except ProbeError as error:
            return Observation({}, (str(error), *self._unhealthy(self._broken())))
        new = {id: box.service for id, box in after.items() if id not in before}
        gone = {box.service for id, box in before.items() if id not in after}
        replaced = sorted(gone & {box.service for box in after.values()})
        started = sorted(set(new.values()) - set(replaced))
        facts = {"started": ", ".join(started) or "none", "left_alone": str(len(before))}
        why = tuple(f"service {name} was replaced while it ran" for name in replaced)
        changes = sum(service in started for service in new.values())
        return Observation(facts, why, changes=changes)

    def _start(self) -> None:
        """Start what is missing. Raises ProbeError with what compose says where it gives up.

        A compose whose gate was killed may still be at work: its containers are waited for.
        """
        deadline = self.context.deadline
        while True:
            try:
                self.compose.up(seconds=max(1.0, deadline.call(deadline.seconds) - _LOGS_SECONDS))
            except ProbeError as error:
                if _IN_USE not in str(error) or not deadline.pause(_LOOK_SECONDS):
                    raise
            else:
                return

    def _broken(self) -> list[Container]:
        """Return containers whose check or process failed: compose names those that wait for them."""
        # Beyond the deadline if need be: without this look nobody knows why nothing came up.
        containers = self.compose.containers(seconds=_LAST_LOOK_SECONDS).values()
        return [box for box in containers if box.is_over or box.health == "unhealthy"]

    def wait(self) -> Observation:
        """Wait until every container of every service is healthy; tell the logs of those that are
        not: one that is well does not speak for another."""
        names, deadline, said = self.compose.hashes(seconds=self.seconds), self.context.deadline, ""
        cut: tuple[str, ...] = ()
        while True:
            try:
                containers = self.compose.containers(seconds=self.seconds).values()
            except ProbeError as error:
                cut = (deadline.cut_words(error, said=said),)
                break
            count = Counter(box.service for box in containers)
            absent = [name for name in names if not count[name]]
            looks = [box for box in containers if box.service in names]
            bad = [box for box in looks if not box.is_healthy]
            facts = {
                box.service if count[box.service] == 1 else box.name: box.sentence
                for box in containers
            }
            if not (bad or absent):
                return Observation(facts)
            states = [f"{name} not there" for name in absent]
            line = ", ".join([*states, *(f"{box.shown} {box.sentence}" for box in bad)])
            if line != said:
                total = len(looks) + len(absent)
                well = len(looks) - len(bad)
                self.context.tell(f"{well} of {total} healthy; {line}")
                said = line
            hopeless = not absent and all(map(_is_hopeless, bad))
            # The time to read the logs is kept back.
            has_time = deadline.left >= _LOOK_SECONDS + _LOGS_SECONDS
            waits = self.context.options.execute and not hopeless
            if not (waits and has_time and deadline.pause(_LOOK_SECONDS)):
                break
        return Observation(facts, (*self._absent(absent), *self._unhealthy(bad), *cut))

    def _absent(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            yield f"service {name} is not there, expected running, healthy {self._within}"

    @property
    def _within(self) -> str:
        return f"within {self.context.deadline.seconds:g} s (--deadline-seconds)"

    def _unhealthy(self, bad: Iterable[Container]) -> Iterator[str]:
        for box in bad:
            if box.is_running and not box.health:
                yield (
                    f"service {box.shown} has no health check, and what says nothing is not "
                    f"healthy: give it a healthcheck in {self.compose.file}"
                )
                continue
            seconds = max(_LOGS_SECONDS, min(5.0, self.context.deadline.left))
            logs = self.compose.logs(box, seconds=seconds)
            yield (
                f"service {box.shown} is {box.sentence}, expected running, healthy {self._within}; "
                f"its last lines: {logs}"
            )


def _is_hopeless(box: Container) -> bool:
    """Return True for what waiting does not mend: no check, or a process that ended for good."""
    return (box.is_running and not box.health) or box.is_over
