"""Egress configuration as xDS resources. Imports protobuf's generated modules: 0.1 s, once."""

from __future__ import annotations

import hashlib

# The messages inside ``typed_config`` are found by name in protobuf's pool, which knows what has been imported.
import envoy.config.route.v3.route_components_pb2
import envoy.extensions.access_loggers.file.v3.file_pb2
import envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2
import envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2
import envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2
import envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2
import envoy.extensions.http.injected_credentials.generic.v3.generic_pb2
import envoy.extensions.transport_sockets.tls.v3.tls_pb2  # noqa: F401
import xds.type.v3.typed_struct_pb2  # noqa: F401
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from cube.egress import compile as compiled
from cube.egress.compile import Policy
from cube.egress.leaves import Leaf
from cube.proxy.delta import Resource
from cube.proxy.resources import resource

_PREFIX = "type.googleapis.com/"
SCOPE = _PREFIX + ScopedRouteConfiguration.DESCRIPTOR.full_name
SECRET = _PREFIX + Secret.DESCRIPTOR.full_name


def scope(policy: Policy) -> Resource:
    """The routes of a sandbox."""
    return resource(SCOPE, compiled.scope(policy), ScopedRouteConfiguration())


def credential(name: str, value: str) -> Resource:
    """A value that is injected."""
    secret = Secret(name=name)
    secret.generic_secret.secret.inline_bytes = value.encode()
    return _secret(secret)


def leaf(leaf: Leaf, key_pem: bytes) -> Resource:
    """A server certificate with its key."""
    secret = Secret(name=leaf.name)
    secret.tls_certificate.certificate_chain.inline_bytes = leaf.certificate
    secret.tls_certificate.private_key.inline_bytes = key_pem
    return _secret(secret)


def _secret(secret: Secret) -> Resource:
    body = secret.SerializeToString(deterministic=True)
    return Resource(SECRET, secret.name, hashlib.sha256(body).hexdigest()[:16], body)
