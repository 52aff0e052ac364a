"""One archive from the user's package index, found where pip would find it, and never built: nothing in it is run."""

from __future__ import annotations

import ast
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankwise.config import Package
from rankwise.errors import Refused, reason

if TYPE_CHECKING:
    from unearth import PackageFinder
    from unearth.fetchers import PyPIClient

REMEDY = "give a local copy with model.path= or task.path="


def download(package: Package, into: Path) -> Path:
    """Write the archive of ``package`` into the existing folder ``into`` and return its path; its hash is not checked.

    Of several archives of that version the one with the declared hash is taken. Raises Refused (no such version, the
    index cannot be reached) and OSError from the disk.
    """
    import httpx2
    from rich.console import Console

    title = f"package {package.name} {package.version}"
    logging.getLogger("unearth").setLevel(logging.ERROR)  # one index of several may lack the package
    settings = _pip_settings()
    print(f"fetching {title}", file=sys.stderr, flush=True)
    try:
        own_client = _client(settings)
    except OSError as error:
        files = ", ".join(f"{key}={settings[key]}" for key in ("cert", "client-cert") if settings.get(key))
        raise Refused(f"{title}: pip's {files} cannot be read ({reason(error)}); mend it, or {REMEDY}") from None
    with Console(stderr=True).status("") as shown, own_client as client:  # nothing but on a terminal
        try:
            link = _link(package, title, _finders(package, settings, client))
            with client.stream("GET", link, headers={"Accept-Encoding": "identity"}) as response:
                response.raise_for_status()
                with (into / "archive").open("wb") as file:
                    for chunk in response.iter_raw(1 << 20):
                        file.write(chunk)
                        shown.update(f"{file.tell() / 1e6:.1f} MB")
        except httpx2.HTTPError as error:
            answer = getattr(error, "response", None)  # the error's own text has the address, perhaps with a password
            cause = f"{answer.status_code} {answer.reason_phrase}" if answer else str(error) or type(error).__name__
            what = f"the package index cannot be reached ({cause}); connect, check pip's index, or {REMEDY}"
            raise Refused(f"{title}: {what}") from error
    return into / "archive"


def _pip_settings() -> dict[str, str]:
    """What pip is configured with, by files and environment; nothing where there is no pip."""
    # -P: a file called pip.py in the working directory is not what we mean
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False).stdout
    values: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}  # the last one decides
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in values:
            values[section][name] = str(ast.literal_eval(value))
    return values["global"] | values["download"] | values[":env:"]


def _client(settings: dict[str, str]) -> PyPIClient:
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers import PyPIClient

    urls = [settings.get("index-url", ""), *settings.get("extra-index-url", "").split()]
    return PyPIClient(
        trusted_hosts=settings.get("trusted-host", "").split(),
        verify=ssl.create_default_context(cafile=settings["cert"]) if settings.get("cert") else True,
        cert=settings.get("client-cert"),
        proxy=settings.get("proxy"),
        timeout=float(settings.get("timeout") or settings.get("default-timeout") or 15),
        follow_redirects=True,
        auth=MultiDomainBasicAuth(prompting=False, index_urls=list(filter(None, urls))),
        event_hooks={"response": [_check_status]},
    )


def _check_status(response: Any) -> None:
    """An index that has no such package says 404; credentials are looked up after a 401."""
    if response.is_error and response.status_code not in (401, 404):
        response.raise_for_status()


def _finders(package: Package, settings: dict[str, str], client: PyPIClient) -> Iterator[PackageFinder]:
    """One for each index and each folder of links, so that any of them may fail."""
    from unearth import PackageFinder

    form: dict[str, Any] = {"no_binary" if package.sdist else "only_binary": [package.name]}
    form |= {"session": client, "ignore_compatibility": True}
    if settings.get("no-index", "0").lower() in ("0", "false", "no", "off", "n", "f"):
        for url in (settings.get("index-url", ""), *settings.get("extra-index-url", "").split()):
            yield PackageFinder(index_urls=[url] if url else [], **form)  # without one, the default index
    for link in settings.get("find-links", "").split():
        if "://" in link or os.path.exists(link):
            yield PackageFinder(find_links=[link], **form)


def _link(package: Package, title: str, finders: Iterator[PackageFinder]) -> str:
    """The address of the archive. Raises Refused, or HTTPError where that is why nothing was found."""
    import httpx2

    offered: list[Any] = []
    problem = None
    for finder in finders:
        try:
            offered += finder.find_all_packages(package.name, allow_yanked=True)
        except httpx2.HTTPError as error:
            problem = error
    links = [file.link for file in offered if file.version == package.version]
    if declared := [link for link in links if (link.hash_option or {}).get("sha256") == [package.sha256]] or links:
        return str(declared[0].url_without_fragment)
    if problem:
        raise problem
    form = "source distribution" if package.sdist else "wheel"
    newest = ", ".join(list(dict.fromkeys(str(file.version) for file in offered))[:5]) or "none"
    raise Refused(f"{title}: the index has no such {form} (newest: {newest}); correct name or version, or {REMEDY}")
