#!/usr/bin/env bash
# RUNBOOK 4.1; the gate itself is `ctp-runbook infra debezium-connectors`, on PATH or in this checkout's .venv.
PATH="$PATH:$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin" exec ctp-runbook infra debezium-connectors "$@"
