"""`imgbuild doctor`."""

from __future__ import annotations

import json

import click

from builder import engines, proc, site
from builder.cli import options
from builder.engines import host
from builder.project import engines_script


@click.command("doctor")
@options.as_json
def command(*, as_json: bool) -> None:
    """Show what imgbuild finds on this host: engines, GPU, and which site settings it would use.

    Addresses and credentials are never shown.
    """
    found = {
        "engines": {name: engine().problem() for name, engine in engines.ENGINES.items()},
        "mmdebstrap": bool(proc.find("mmdebstrap")),
        "gpu": host.has_gpu(),
        "site": _site(site.discover()),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, problem in found["engines"].items():  # type: ignore[attr-defined]
        verb = "start" if problem and "daemon" in problem and proc.find("dockerd") else "install"
        hint = f"; {engines_script()} {verb} {name}" if problem else ""
        click.echo(f"{name:<11} {'ready' if problem is None else problem + hint}")
    missing = f"mmdebstrap not installed; {engines_script()} install bootstrap"
    bootstrap = "ready" if found["mmdebstrap"] else missing
    click.echo(f"{'bootstrap':<11} {bootstrap}")
    click.echo(f"{'gpu':<11} {'NVIDIA driver found' if found['gpu'] else 'none'}")
    for name, value in found["site"].items():  # type: ignore[attr-defined]
        click.echo(f"site: {name:<21} {value}")


def _site(profile: site.SiteProfile) -> dict[str, object]:
    """What was found, counted: the values are the site's own."""
    return {
        "package index": "own" if profile.default_index else "default",
        "extra indexes": len(profile.extra_indexes) + len(profile.file_indexes),
        "wheel folders": len(profile.wheel_dirs),
        "CA bundle": bool(profile.ca),
        "credentials (.netrc)": bool(profile.netrc),
        "proxies": len(profile.proxies),
        "apt mirrors": len(profile.apt_sources),
    }
