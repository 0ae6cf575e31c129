"""The registry's client: addresses, tokens, digests, broken connections. The registry is a fake."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import BuildError, UserError
from builder.registry import Address, Registry, is_digest, place, trust
from builder.registry.blob import Descriptor
from builder.registry.credentials import Login
from tests.unit.fakeregistry import INDEX, FakeRegistry, digest_of, fake_registry

LAYER = bytes(range(256)) * 300  # of some size, without a pattern that a mistake keeps
LOGIN = Login(user="lab", password="Tr0ub4dor")


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as running:
        yield running


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it was slept; without sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def client(server: FakeRegistry, login: Login | None = None, actions: str = "pull") -> Registry:
    return Registry(Address.parse(f"http://{server.host}"), login=login, actions=actions)


def read(registry: Registry, content: bytes, chunk: int = 1000) -> bytes:
    """A blob of that content, read as tarfile reads."""
    blob = Descriptor(digest=digest_of(content), size=len(content))
    source = registry.blob("x", blob, lambda _: None)
    parts = [source.read(min(chunk, len(content) - at)) for at in range(0, len(content), chunk)]
    source.close()
    return b"".join(parts)


# Addresses.


@pytest.mark.parametrize(
    ("text", "host", "path", "plain"),
    [
        ("registry.example.org", "registry.example.org", "", False),
        ("registry.example.org/lab/images/", "registry.example.org", "lab/images", False),
        ("https://registry:5000/lab", "registry:5000", "lab", False),
        ("http://localhost/lab", "localhost", "lab", True),
        ("[::1]:5000/lab_a/b--c", "[::1]:5000", "lab_a/b--c", False),
    ],
)
def test_an_address_is_read(text: str, host: str, path: str, plain: bool) -> None:
    read = Address.parse(text)
    assert (read.host, read.path, read.plain) == (host, path, plain)
    assert read.reference("vllm") == f"{host}/{path}/vllm".replace("//", "/")
    assert read.url == f"{'http' if plain else 'https'}://{host}/v2/"


@pytest.mark.parametrize("text", ["", "lab", "lab/vllm", "ftp://x.org", "x.org/Lab", "x.org/a:b"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(UserError, match="names no registry; give HOST"):
        Address.parse(text)


@pytest.mark.parametrize("host", ["[:::]", "[::1::2]", "[12345::]", "[1:2]", "[]"])
@pytest.mark.parametrize("port", ["", ":5000"])
def test_brackets_hold_an_ipv6_address(host: str, port: str) -> None:
    with pytest.raises(UserError, match="names no registry; give HOST"):
        Address.parse(f"{host}{port}/lab")
    assert Address.parse("[2001:db8::1]/lab").host == "[2001:db8::1]"


@pytest.mark.parametrize(
    "host", ["a..b", ".a.b", "a.b.", "a.-b", "a-.b", "a" * 64 + ".org", ".".join(["a" * 60] * 5)]
)
def test_a_host_is_one_that_can_be_asked_for(host: str) -> None:
    with pytest.raises(UserError, match="names no registry; give HOST"):
        Address.parse(f"https://{host}:5000/lab")


def test_the_longest_label_is_a_host() -> None:
    assert Address.parse("a" * 63 + ".org").host == "a" * 63 + ".org"


@pytest.mark.parametrize("port", ["0", "65536", "99999", "123456"])
def test_a_port_is_one_that_can_be_asked_for(port: str) -> None:
    with pytest.raises(UserError) as error:
        Address.parse(f"x.org:{port}/lab")
    assert str(error.value) == f"--registry: no port {port}; a port is 1 to 65535"


def test_a_mirrors_host_that_is_none_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """registries.conf may say anything."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_: host.encode("idna"))
    there = Registry(Address(host="a..b:5000", path="", plain=False))
    with pytest.raises(BuildError, match=r"no registry answers at a\.\.b:5000: no host's name"):
        there.digest("x", "latest")


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError) as error:
        Address.parse("https://lab:Tr0ub4dor@x.org/lab")
    assert "Tr0ub4dor" not in str(error.value)


def test_docker_hubs_api_has_a_name_of_its_own() -> None:
    assert Address.parse("docker.io/me").url == "https://registry-1.docker.io/v2/"


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1:5000", True), ("127.8.8.8", True), ("localhost:1", True), ("[::1]:5000", True),
     ("10.0.0.1", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_no_proxy_is_asked_for_this_machine(host: str, here: bool) -> None:
    assert Address.parse(host).is_loopback is here


def test_a_digest_is_sha256() -> None:
    assert is_digest("sha256:" + "0a" * 32)
    for other in ("sha256:" + "0A" * 32, "0a" * 32, "sha512:" + "0" * 128, f"sha256:{'0' * 64}\n"):
        assert not is_digest(other)


@pytest.mark.loopback
def test_how_to_do_without_tls_is_said_where_the_address_is_from(server: FakeRegistry) -> None:
    told = f"{server.host} speaks HTTP without TLS; where that is meant: "
    given = Address.parse(server.host)
    with pytest.raises(BuildError) as error:
        Registry(given).digest("x", "latest")
    assert str(error.value) == f"{told}--registry http://{server.host}"
    mirror, repository, tag = place(f"{server.host}/hub/debian:12-slim", plain=False)
    with pytest.raises(BuildError) as error:
        Registry(mirror).digest(repository, tag)
    wanted = f"`insecure = true` in registries.conf, in the [[registry.mirror]] {server.host}"
    assert str(error.value) == told + wanted


# Logins.


@pytest.mark.loopback
def test_a_token_is_asked_for_with_the_login_and_for_what_is_to_be_done(
    server: FakeRegistry,
) -> None:
    digest = server.add_image(LAYER)
    server.challenge, server.accepted = "Bearer", "Bearer the-token"
    registry = client(server, LOGIN, actions="pull,push")
    assert registry.digest("lab/x", "latest") == digest
    registry.manifest("lab/x", digest)
    (asked,) = server.tokens  # and kept
    query = {"x": ["y"], "service": ["a service"], "scope": ["repository:lab/x:pull,push"]}
    assert asked == ("GET", query, LOGIN.basic)


@pytest.mark.loopback
def test_an_identity_token_is_exchanged(server: FakeRegistry) -> None:
    server.add_image(LAYER)
    server.challenge, server.accepted = "Bearer", "Bearer the-token"
    client(server, Login(identity_token="long-lived")).digest("x", "latest")
    ((method, query, authorization),) = server.tokens
    assert (method, query["refresh_token"], authorization) == ("POST", ["long-lived"], "")


@pytest.mark.loopback
def test_basic_and_what_it_does_not_take(server: FakeRegistry) -> None:
    digest = server.add_image(LAYER)
    server.challenge, server.accepted = "Basic", LOGIN.basic
    assert client(server, LOGIN).digest("x", "latest") == digest
    with pytest.raises(BuildError, match="refuses the login of 'other'; log in with `docker login"):
        client(server, Login(user="other", password="Tr0ub4dor")).digest("x", "latest")
    with pytest.raises(BuildError, match="wants one, and there is no login"):
        client(server).digest("x", "latest")


@pytest.mark.loopback
def test_a_login_stays_where_it_belongs(server: FakeRegistry) -> None:
    """Registries redirect to where their blobs are: that host is nobody to tell a password."""
    server.add_image(LAYER)
    server.challenge, server.accepted = "Basic", LOGIN.basic
    with fake_registry() as elsewhere:
        elsewhere.blobs = server.blobs
        server.elsewhere = elsewhere.port
        assert read(client(server, LOGIN), LAYER) == LAYER
        ((_, _, headers),) = elsewhere.asked
        assert "Authorization" not in headers


def test_a_login_shows_no_secret() -> None:
    assert "Tr0ub4dor" not in repr(
        Login(user="lab", password="Tr0ub4dor", identity_token="Tr0ub4dor")
    )


# Manifests.


@pytest.mark.loopback
def test_a_digest_is_known_also_where_the_header_lacks(server: FakeRegistry) -> None:
    digest = server.add_image(LAYER)
    server.tells_digest = False
    assert client(server).digest("x", "latest") == digest
    assert client(server).digest("x", "missing") is None


@pytest.mark.loopback
def test_a_manifest_that_is_not_its_digests_is_refused(server: FakeRegistry) -> None:
    digest = server.add_image(LAYER)
    server.manifests[digest] += b" "
    with pytest.raises(BuildError, match=f"the manifest is not {digest}, but sha256:"):
        client(server).manifest("x", digest)


@pytest.mark.loopback
def test_of_an_index_the_image_for_this_cpu_is_taken(server: FakeRegistry) -> None:
    own = server.add_image(LAYER)
    entries = [
        {"digest": "sha256:" + "0" * 64, "size": 1, "platform": {"architecture": "arm64"}},
        {"digest": own, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}},
    ]
    index = server.add_manifest({"mediaType": INDEX, "manifests": entries}, "many")
    assert client(server).manifest("x", index).digest == own
    other = server.add_manifest({"mediaType": INDEX, "manifests": entries[:1]}, "other")
    with pytest.raises(BuildError, match="is no image"):
        client(server).manifest("x", other)


@pytest.mark.loopback
@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "no JSON", '{"config": {"digest": "../../etc", "size": 1}, "layers": []}'],
)
def test_what_is_no_manifest_is_told(content: str, server: FakeRegistry) -> None:
    digest = digest_of(content.encode())
    server.manifests[digest] = content.encode()
    with pytest.raises(BuildError, match="is no image"):
        client(server).manifest("x", digest)


@pytest.mark.loopback
def test_one_more_tag_is_the_same_bytes(server: FakeRegistry) -> None:
    digest = server.add_image(LAYER)
    registry = client(server)
    registry.put("x", "more", registry.manifest("x", digest))
    ((tag, media_type, text),) = server.puts
    assert (tag, digest_of(text)) == ("more", digest)
    assert media_type == json.loads(text)["mediaType"]


# Blobs.


@pytest.mark.loopback
def test_a_broken_connection_is_taken_up_again(server: FakeRegistry, naps: list[float]) -> None:
    server.add_image(LAYER)
    server.cut_after, server.failures = 30000, 2
    assert read(client(server), LAYER) == LAYER
    ranges = [headers.get("Range") for _, _, headers in server.asked]
    assert ranges == [None, None, None, "bytes=30000-", "bytes=60000-"]
    assert naps == [1, 2, 1, 1]


@pytest.mark.loopback
def test_one_that_cannot_be_taken_up_is_told(server: FakeRegistry, naps: list[float]) -> None:
    server.add_image(LAYER)
    server.cut_after, server.resumes = 30000, False
    with pytest.raises(BuildError, match="the connection broke, and cannot be resumed"):
        read(client(server), LAYER)


@pytest.mark.loopback
def test_it_is_given_up_some_time(server: FakeRegistry, naps: list[float]) -> None:
    server.add_image(LAYER)
    server.failures = 99
    with pytest.raises(BuildError, match=f"after 0 of {len(LAYER)} bytes of sha256:.*503"):
        read(client(server), LAYER)
    assert naps == [1, 2, 4, 8]


@pytest.mark.loopback
def test_a_blob_that_is_not_its_digests_never_comes_whole(server: FakeRegistry) -> None:
    server.blobs[digest_of(LAYER)] = LAYER[:-1] + b"x"
    with pytest.raises(BuildError, match=f"the blob {digest_of(LAYER)} came as sha256:"):
        read(client(server), LAYER)


# Certificates.


def test_certificates_of_certs_d_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "containers/certs.d/registry.example.org:5000"
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_text("one")
    (folder / "client.cert").write_text("of a client")
    (tmp_path / "site.crt").write_text("the site's")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with trust.bundle("registry.example.org:5000", tmp_path / "site.crt") as bundle:
        assert bundle is not None
        assert bundle.read_text() == "the site's\none"
    assert not bundle.exists()
    with trust.bundle("another.example.org", tmp_path / "site.crt") as bundle:
        assert bundle == tmp_path / "site.crt"
    with pytest.raises(UserError, match=r"ca\.crt: no certificate in it"):
        trust.context("registry.example.org:5000", None)
