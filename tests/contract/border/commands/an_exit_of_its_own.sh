echo '{}'; echo no front >&2; exit 7
