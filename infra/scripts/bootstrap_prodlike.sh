#!/usr/bin/env bash
# RUNBOOK 4.1; the gate itself is `ctp-runbook infra bootstrap`.
exec ctp-runbook infra bootstrap "$@"
