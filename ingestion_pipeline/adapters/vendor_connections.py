"""How the adapters of HTTP vendors connect: certificates, and the proxies that the environment names."""

import ssl
from functools import cache

import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

from ingestion_pipeline.errors import ConfigurationError

MOST_KEPT = 64  # connections that wait for their next request


@cache
def tls_context() -> ssl.SSLContext:
    """By which all vendors are known, once a process: the system's certificates, or those of SSL_CERT_FILE."""
    import httpx2

    return httpx2.create_ssl_context()


def connections_to(base_url: str) -> urllib3.PoolManager:
    """Connections that are kept, safe to use from threads, over the proxy that the environment names, if it does.

    Raises ConfigurationError for a proxy that does not speak HTTP.
    """
    proxy = select_proxy(base_url, get_environ_proxies(base_url, no_proxy=None))
    if not proxy:
        return urllib3.PoolManager(maxsize=MOST_KEPT, ssl_context=tls_context())
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        return urllib3.ProxyManager(
            url, maxsize=MOST_KEPT, ssl_context=tls_context(), proxy_headers=HTTPAdapter().proxy_headers(url)
        )
    except urllib3.exceptions.ProxySchemeUnknown:
        raise ConfigurationError(f"the proxy that the environment names for {base_url} must be http(s)://...") from None
