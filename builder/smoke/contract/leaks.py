"""The check that nothing is in it that belongs to a person, a site or root alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from builder.errors import BuildError
from builder.smoke.contract.seen import sees
from builder.smoke.subject import Subject

_SITE_VARIABLE = re.compile(
    r"(?:https?|ftp|all|no)_proxy|pip_(?:extra_)?index(?:_url)?|pip_pypi_url"
    r"|pip_(?:find_links|cert|client_cert|trusted_host|proxy|config_file)"
    r"|uv_(?:default_index|extra_index_url|find_links|config_file|index.*)"
    r"|netrc|ssl_cert_(?:file|dir)|(?:requests|curl)_ca_bundle|node_extra_ca_certs|ssh_auth_sock",
    re.IGNORECASE,
)
# By the name's end. PWD is a shell's own, and GPG_KEY is how images of Python name who signs it.
_SECRET_VARIABLE = re.compile(
    r"(?!gpg_key$|.*public_key$)"
    r"(?:.*passw(?:or)?d|.*passphrase|.+_pwd|.*api_?key"
    r"|(?:.*_)?(?:token|pass|secret|key|access_key_id|credentials))",
    re.IGNORECASE,
)
# HF_HUB_DISABLE_IMPLICIT_TOKEN=1 is none.
_SWITCH = re.compile(r"[01]|true|false|yes|no|on|off", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/@\s:]+:[^/@\s]+@")


def contents(subject: Subject) -> str:
    """No secrets, no settings of a site, no rights that nobody needs."""
    wrong = [f"environment: {why}" for why in _telling("variable", subject.config.env)]
    wrong += [f"labels: {why}" for why in _telling("label", subject.config.labels)]
    # Root, who may read everything; Apptainer knows its caller alone.
    how: dict[str, Any] = {} if subject.is_sif else {"user": "0:0", "network": False}
    seen = sees(subject, "contents", entrypoint=subject.python, timeout=900.0, **how)
    wrong += [f"{what}: {path}" for what, path in seen["found"]]
    if wrong:
        raise BuildError(f"{len(wrong)} things do not belong into an image", tail=wrong)
    unread = f", {len(seen['unread'])} folders are closed to us" if seen["unread"] else ""
    return f"{seen['files']} files{unread}"


def _telling(kind: str, table: Any) -> Iterator[str]:
    """Names whose values are a site's or a person's own; a secret is not repeated."""
    for name, value in table.items():
        secret = _SECRET_VARIABLE.fullmatch(name) and not _SWITCH.fullmatch(value)
        if value and (secret or _SITE_VARIABLE.fullmatch(name)):
            yield f"the {kind} {name} is set"
        elif _LOGIN.search(value):
            yield f"the {kind} {name} holds a login"
