"""Registries, asked over HTTP: their addresses, logins, certificates and manifests."""

from builder.registry.address import Address
from builder.registry.asking import Asking, place
from builder.registry.client import Registry, is_digest

__all__ = ["Address", "Asking", "Registry", "is_digest", "place"]
