echo waiting >&2; sleep 600
