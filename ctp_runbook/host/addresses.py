"""What an address says beside host and path: the port it means, and whom its TLS trusts.

``https://ch.internal:8443/#ca_file=/etc/ssl/own.pem`` names the authority where the address
stands, whatever flag, template or table that is. A fragment is never sent.
"""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

__all__ = ["below", "ca_file_of", "ca_problem", "default_port_of", "split_url", "with_ca_file"]

_CA_FILE = "ca_file"


def ca_file_of(url: str) -> str:
    """Return the file of authorities that the address names; blank for the system's own."""
    return parse_qs(urlsplit(url).fragment).get(_CA_FILE, [""])[0]


def with_ca_file(url: str, path: str) -> str:
    """Return the address with this file of authorities where it is TLS and names none itself."""
    if not path or ca_file_of(url) or urlsplit(url).scheme != "https":
        return url
    return urlsplit(url)._replace(fragment=urlencode({_CA_FILE: path}, safe="/")).geturl()


def split_url(url: str) -> tuple[SplitResult, int | None]:
    """Return the parts of an address, and its port where it names one.

    Raises ValueError that says what is wrong and quotes nothing: what is not read as it was meant,
    ``redis://:pa/ss@host``, is often a password.
    """
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError as error:
        said = str(error).partition(" value as ")[0]
        whole = said.partition(" '")[0] + " of the address" if "'" in said else said
        raise ValueError(whole) from None


def default_port_of(url: str) -> int:
    """Return the port of the scheme."""
    return 443 if urlsplit(url).scheme == "https" else 80


def below(url: str, path: str, *, query: str = "") -> str:
    """Return the address of ``path`` below this one, its ``ca_file`` kept."""
    parts = urlsplit(url)
    joined = f"{parts.path.rstrip('/')}/{path.lstrip('/')}"
    return parts._replace(path=joined, query=query).geturl()


def ca_problem(url: str) -> str:
    """Return why the ``ca_file`` of an address cannot be used; blank where it can, or is none."""
    try:
        path, scheme = ca_file_of(url), urlsplit(url).scheme
    except ValueError as error:
        return f"no address that can be read: {error}"
    if not path:
        return ""
    if not path.startswith("/"):
        return f"ca_file {path} is not absolute: it is read where a run is, and later by its resume"
    if scheme not in ("https", "rediss"):
        return f"ca_file {path} stands in an address that is not https://"
    import ssl  # late: for addresses that have one

    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        return f"ca_file {path}: no certificates can be read from it: {error}"
    return ""
