"""The job's token for Git alone, so that a private base can be fetched although the checkout kept no credentials.

As `actions/checkout` does it: an HTTP header for the server's own address; here by the environment (`git config`,
GIT_CONFIG_COUNT), so that it stands in no file and in no process's arguments.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr


def for_git(token: SecretStr | None, server_url: str, env: Mapping[str, str]) -> dict[str, str]:
    """Variables that lend `token` to Git for addresses below `server_url` and no other; empty where there is none.

    Args:
        env: what is set already; entries of its own GIT_CONFIG_COUNT are kept.
    """
    server = urlsplit(server_url)
    if token is None or server.scheme not in ("http", "https") or not server.hostname:
        return {}
    already = env.get("GIT_CONFIG_COUNT", "")
    count = int(already) if already.isdecimal() else 0
    key = f"http.{server.scheme}://{server.netloc}/.extraheader"
    credentials = base64.b64encode(f"x-access-token:{token.get_secret_value()}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": str(count + 2),
        f"GIT_CONFIG_KEY_{count}": key,
        f"GIT_CONFIG_VALUE_{count}": "",  # forgets the header that a checkout kept: GitHub refuses two of them
        f"GIT_CONFIG_KEY_{count + 1}": key,
        f"GIT_CONFIG_VALUE_{count + 1}": f"AUTHORIZATION: basic {credentials}",
    }
