"""The gate ``bootstrap``: every service of the compose project up, as its file says, and healthy.

Nothing that runs is restarted: ``up --no-recreate`` starts what is missing, and a running
container whose configuration is no longer that of the file fails the gate by name before anything
is started. The old engine may be using it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.gates.migrations import timescale_tasks
from ctp_runbook.gates.services import endpoint_task, redis_task
from ctp_runbook.probes.compose import Compose, Container, port_holder

__all__ = ["bootstrap_tasks"]

_CALL_SECONDS = 30.0
_LOOK_SECONDS = 1.0
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
        """Hold what runs to the file; what does not run must find its ports free."""
        hashes = self.compose.hashes(seconds=self.seconds)
        running = self._running()
        same = [name for name in running if running[name].config_hash == hashes.get(name)]
        facts = {"running": str(len(running)), "as_the_file_says": str(len(same))}
        problems = (*self._drifted(running, hashes), *self._taken(running))
        return Observation(facts, problems)

    def _running(self) -> dict[str, Container]:
        containers = self.compose.containers(seconds=self.seconds)
        return {name: box for name, box in containers.items() if box.is_running}

    def _drifted(
        self, running: Mapping[str, Container], hashes: Mapping[str, str]
    ) -> Iterator[str]:
        for name, container in running.items():
            want = hashes.get(name)
            if want is None:
                yield f"service {name} runs and is not in {self.compose.file}; add it, or stop it"
            elif container.config_hash != want:
                yield (
                    f"service {name} runs with another configuration than {self.compose.file} says "
                    f"(config hash {container.config_hash[:12] or 'none'}, expected {want[:12]}); "
                    "it is not restarted under the old engine: put the file back, or outside "
                    f"sessions run `docker compose -f {self.compose.file} -p "
                    f"{self.compose.project} up -d {name}`"
                )

    def _taken(self, running: Mapping[str, Container]) -> Iterator[str]:
        """Yield ports of services that are not up, and who listens there."""
        published = self.compose.published(seconds=self.seconds)
        idle = [(name, port) for name in published.keys() - running for port in published[name]]
        for name, port in sorted(idle):
            if holder := port_holder(port):
                yield (
                    f"port {port} of service {name} is held by {holder}; stop it, or give the "
                    "service another port in the env file"
                )

    def up(self) -> Observation:
        """Start what is missing; containers that ran before still run, the same ones."""
        before = self._running()
        if refusal := self._refusal_to_start():
            return Observation({}, (refusal, *self._unhealthy(self._broken())))
        after = self._running()
        started = sorted(after.keys() - before)
        replaced = [name for name in before if name in after and before[name].id != after[name].id]
        facts = {"started": ", ".join(started) or "none", "left_alone": str(len(before))}
        why = tuple(f"service {name} was replaced while it ran" for name in replaced)
        return Observation(facts, why, changes=len(started))

    def _refusal_to_start(self) -> str:
        """Return what compose says where it gives up; blank for done.

        A compose whose gate was killed may still be at work: its containers are waited for.
        """
        deadline = self.context.deadline
        while True:
            try:
                self.compose.up(seconds=max(1.0, deadline.call(deadline.seconds) - _LOGS_SECONDS))
            except ProbeError as error:
                if _IN_USE not in str(error) or not deadline.pause(_LOOK_SECONDS):
                    return str(error)
            else:
                return ""

    def _broken(self) -> dict[str, Container | None]:
        """Return containers whose check or process failed: compose names those that wait for them."""
        # Beyond the deadline if need be: without this look nobody knows why nothing came up.
        containers = self.compose.containers(seconds=_CALL_SECONDS)
        return {
            name: box
            for name, box in containers.items()
            if box.is_over or box.health == "unhealthy"
        }

    def wait(self) -> Observation:
        """Wait until every service is healthy; tell the logs of those that are not."""
        names, deadline, said = self.compose.hashes(seconds=self.seconds), self.context.deadline, ""
        while True:
            containers = self.compose.containers(seconds=self.seconds)
            looks = {name: containers.get(name) for name in names}
            bad = {name: box for name, box in looks.items() if box is None or not box.is_healthy}
            facts = {name: box.sentence for name, box in containers.items()}
            if not bad:
                return Observation(facts)
            line = ", ".join(f"{name} {_state(box)}" for name, box in bad.items())
            if line != said:
                self.context.tell(f"{len(names) - len(bad)} of {len(names)} healthy; {line}")
                said = line
            waits = self.context.options.execute and not all(map(_is_hopeless, bad.values()))
            # The time to read the logs is kept back.
            has_time = deadline.left >= _LOOK_SECONDS + _LOGS_SECONDS
            if not (waits and has_time and deadline.pause(_LOOK_SECONDS)):
                return Observation(facts, tuple(self._unhealthy(bad)))

    def _unhealthy(self, bad: Mapping[str, Container | None]) -> Iterator[str]:
        for name, container in bad.items():
            if container is not None and container.is_running and not container.health:
                yield (
                    f"service {name} has no health check, and what says nothing is not healthy: "
                    f"give it a healthcheck in {self.compose.file}"
                )
                continue
            seconds = max(_LOGS_SECONDS, min(5.0, self.context.deadline.left))
            logs = self.compose.logs(container, seconds=seconds) if container else "none"
            yield (
                f"service {name} is {_state(container)}, expected running, healthy within "
                f"{self.context.deadline.seconds:g} s (--deadline-seconds); its last lines: {logs}"
            )


def _state(container: Container | None) -> str:
    return container.sentence if container else "not there"


def _is_hopeless(container: Container | None) -> bool:
    """Return True for what waiting does not mend: no check, or a process that ended for good."""
    if container is None:
        return False
    return (container.is_running and not container.health) or container.is_over
