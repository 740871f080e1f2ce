#!/usr/bin/env bash
# RUNBOOK 4.1; the gate itself is `ctp-runbook infra clickhouse-schema`.
exec ctp-runbook infra clickhouse-schema "$@"
