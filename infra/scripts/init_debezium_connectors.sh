#!/usr/bin/env bash
# RUNBOOK 4.1; the gate itself is `ctp-runbook infra debezium-connectors`.
exec ctp-runbook infra debezium-connectors "$@"
