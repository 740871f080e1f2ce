#!/usr/bin/env bash
# RUNBOOK 4.1; the gate itself is `ctp-runbook infra kafka-topics`.
exec ctp-runbook infra kafka-topics "$@"
