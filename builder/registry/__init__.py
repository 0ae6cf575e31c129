"""Registries, asked over HTTP: their addresses, logins, certificates and manifests."""

from builder.registry.address import Address
from builder.registry.asking import Asking, place
from builder.registry.blob import is_digest
from builder.registry.client import Registry

__all__ = ["Address", "Asking", "Registry", "is_digest", "place"]
