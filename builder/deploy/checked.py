"""What a user gives becomes a value that Kubernetes takes, or one line that says why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from builder.errors import UserError, brief, quoted

_T = TypeVar("_T")

# k8s.io/apimachinery/pkg/util/validation; a Service's name must begin with a letter (DNS-1035).
_LABEL = re.compile(r"^[a-z]([a-z0-9-]*[a-z0-9])?\Z")
_NAMESPACE = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_DOMAIN = r"(?=.{1,253}(?:/|\Z))[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_SUBDOMAIN = re.compile(rf"^{_DOMAIN}\Z")
_KEY_OF_SECRET = re.compile(r"^(?!\.\Z|\.\.)[A-Za-z0-9._-]{1,253}\Z")
_LABEL_VALUE = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")
_LABEL_KEY = re.compile(rf"^({_DOMAIN}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?\Z")
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\Z")
# A StatefulSet's pods have the name with a hash of ten characters as a label, of 63 at most.
LONGEST_NAME = 52
# github.com/distribution/reference: the host in front has a dot, a port, or is localhost.
_IMAGE = re.compile(
    r"^(?P<name>[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*)+|[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?\Z"
)
# huggingface_hub/utils/_validators.py
_HUB = re.compile(r"^(\w[\w.-]*/)?\w[\w.-]*\Z", re.ASCII)
_FOLDER = re.compile(r"^[\w.-]+(/[\w.-]+)*\Z", re.ASCII)
_PROFILE = re.compile(r"^([1-7]g\.[0-9]{1,3}gb)(\+me|\.me)?\Z")
_SECONDS = re.compile(r"^([1-9][0-9]{0,5})([smh])\Z")
LONGEST = 7 * 24 * 3600  # seconds; of a rollout Kubernetes counts them in 32 bits
_PER_UNIT = {"s": 1, "m": 60, "h": 3600}
# A project's id (cloud.google.com/resource-manager/docs) may stand below a domain.
_PROJECT = re.compile(r"^([a-z0-9][a-z0-9.-]{0,60}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]\Z")
_REGION = re.compile(r"^[a-z]+(-[a-z]+)+[0-9]{1,3}\Z")
_ZONE = re.compile(r"^([a-z]+(-[a-z]+)+[0-9]{1,3})-[a-z0-9]{1,8}\Z")
_RESOURCE = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9_./-]{0,253}[A-Za-z0-9])?\Z")
_ACCOUNT = re.compile(r"^[a-z0-9][a-z0-9.-]{0,62}@[a-z0-9][a-z0-9.-]{0,252}[a-z0-9]\Z")
# The device plugin says which GPUs a container has.
_OF_THE_PLUGIN = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_SECRET = re.compile(
    r"(^|_)(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|(API|ACCESS|PRIVATE|SECRET)_?KEYS?)\Z",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"://[^/?#@\s]*:[^/?#\s]+@")
_SECRET_FLAG = re.compile(r"^--?([\w-]+[_-])?(api[_-]?key|hf[_-]token|password)\Z", re.ASCII)


def name(text: str, option: str = "--name") -> str:
    """The name of all objects: a DNS label that begins with a letter."""
    if len(text) > LONGEST_NAME:
        raise UserError(
            f"{option}: {quoted(text)} has {len(text)} characters",
            hint=f"{LONGEST_NAME} are left by what Kubernetes puts behind it in a label of 63",
        )
    if _LABEL.match(text):
        return text
    return _refuse(text, option, "no DNS label", _like_a_label(text))


def namespace(text: str, option: str = "--namespace") -> str:
    """A namespace's name."""
    if _NAMESPACE.match(text):
        return text
    return _refuse(text, option, "no namespace's name", _like_a_label(text))


def object_name(text: str, option: str) -> str:
    """The name of a Secret, a claim, a class: a DNS subdomain."""
    if _SUBDOMAIN.match(text):
        return text
    return _refuse(text, option, "no name of an object", _like_a_label(text))


def hostname(text: str, option: str) -> str:
    """A host's name, whose first part may be `*`."""
    rest = text.removeprefix("*.")
    if _SUBDOMAIN.match(rest) and "." in rest and not rest.rpartition(".")[2].isdecimal():
        return text
    return _refuse(text, option, "no host's name", rest.lower() if rest.isascii() else "")


def label(text: str, option: str) -> tuple[str, str]:
    """KEY=VALUE of a label."""
    key, equals, value = text.partition("=")
    if equals and _LABEL_KEY.match(key) and (not value or _LABEL_VALUE.match(value)):
        return key, value
    raise UserError(f"{option}: {quoted(text)} is no label", hint="as KEY=VALUE")


def label_value(text: str, option: str) -> str:
    """The value of a node's label, as nodes have it."""
    if _LABEL_VALUE.match(text):
        return text
    hint = text.strip().replace(" ", "-")
    return _refuse(text, option, "no label's value", hint if _LABEL_VALUE.match(hint) else "")


def image(text: str, option: str = "--image") -> str:
    """An image's reference, with a tag that names a version or a digest."""
    found = _IMAGE.match(text)
    if not found:
        if "://" in text:
            return _refuse(text, option, "no image's reference", text.partition("://")[2])
        return _refuse(text, option, "no image's reference", text.strip().lower())
    if not (found["tag"] or found["digest"]) or (found["tag"] == "latest" and not found["digest"]):
        raise UserError(
            f"{option}: {quoted(text)} names no version, so that pods of one set may differ",
            hint="name a tag, or the digest that `imgbuild push` prints",
        )
    return text


def hub_model(text: str, option: str = "--model", *, elsewhere: str = "pvc://CLAIM/FOLDER") -> str:
    """A model's name on a hub, as `org/name`; `elsewhere` is how one that is on a disk is named."""
    fits = _HUB.match(text) and len(text) <= 96 and ".." not in text and "--" not in text
    if fits and not text.endswith((".git", ".", "-")):
        return text
    hint = f"as org/name, or {elsewhere}"
    if (address := re.match(r"^(?:https?|hf)://(?:[^/]+/)?(\w[\w.-]*/\w[\w.-]*)", text)) and (
        text.startswith("hf:") or "huggingface.co/" in text
    ):
        hint = f"did you mean {address[1]!r}?"
    elif text.startswith("/"):
        hint = f"a folder is in a volume: pvc://CLAIM{brief(text)}"
    elif "://" in text:
        hint = f"known are names on the hub and {elsewhere}"
    raise UserError(f"{option}: {quoted(text)} names no model", hint=hint)


def folder(text: str, option: str) -> str:
    """A path below a volume's root, which it does not leave."""
    parts = text.split("/")
    if not text or (_FOLDER.match(text) and not {".", ".."} & set(parts)):
        return text
    raise UserError(
        f"{option}: {quoted(text)} is no folder of a volume",
        hint="letters, digits, '.', '_', '-' between single slashes",
    )


_BY_REFERENCE = "--secret-env {}=SECRET/KEY takes it from a Secret"


def variable(text: str, option: str = "--env", *, instead: str = _BY_REFERENCE) -> tuple[str, str]:
    """NAME=VALUE of the environment; what is secret or the device plugin's is refused.

    `instead` says how to give a secret, with a place for its name.
    """
    key, equals, value = text.partition("=")
    if not equals or not _VARIABLE.match(key):
        raise UserError(f"{option}: {quoted(text)} is no variable", hint="as NAME=VALUE")
    if _SECRET.search(key):
        raise UserError(
            f"{option}: {key} would stand in the open in every copy of the file",
            hint=instead.format(key),
        )
    if _PASSWORD_IN_URL.search(value):
        raise UserError(
            f"{option}: {key} holds a password, which would stand in the open",
            hint=instead.format(key),
        )
    return variable_name(key, option), plain(value, option)


def no_secrets(arguments: Sequence[str], references: Collection[str], instead: str) -> None:
    """Raises UserError where a server's key is an argument, and not one of the references to it."""
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if not _SECRET_FLAG.match(flag):
            continue
        value = value if equals else "".join(arguments[number + 1 : number + 2])
        if value not in references:
            raise UserError(
                f"argument: what {flag} is given would stand in the open in every copy of the file",
                hint=instead,
            )


def variable_name(key: str, option: str) -> str:
    """The name of a variable that is the user's to give."""
    if not _VARIABLE.match(key):
        raise UserError(f"{option}: {quoted(key)} is no variable's name")
    if key in _OF_THE_PLUGIN:
        raise UserError(
            f"{option}: {key} is for who hands out GPUs to set",
            hint="ask for them by --gpus",
        )
    return key


def secret(text: str, option: str, default_key: str = "") -> tuple[str, str]:
    """SECRET/KEY; without a key the default's."""
    named, _, key = text.partition("/")
    key = key or default_key
    if not _KEY_OF_SECRET.match(key):
        raise UserError(f"{option}: {quoted(text)} names no key of a Secret", hint="as SECRET/KEY")
    return object_name(named, option), key


def plain(text: str, what: str) -> str:
    """Text that survives a manifest and a process's arguments, control signs do not."""
    for sign in text:
        if (sign < " " and sign not in "\t\n") or "\x7f" <= sign <= "\x9f" or _unprintable(sign):
            raise UserError(f"{what}: {quoted(text)} holds {sign!r}, which YAML cannot carry")
    return text


def profile(text: str, option: str = "--mig") -> str:
    """A MIG profile as the device plugin spells it: `+me` is `.me` there."""
    found = _PROFILE.match(text.lower())
    if found:
        return found[1] + (".me" if found[2] else "")
    hint = "as `nvidia-smi mig -lgip` lists them: 1g.10gb"
    if text.lower().startswith(("mig-", "nvidia.com/mig-")):
        hint = f"did you mean {text.lower().rpartition('mig-')[2]!r}?"
    raise UserError(f"{option}: {quoted(text)} is no MIG profile", hint=hint)


def project(text: str, option: str = "--project") -> str:
    """A project's id of Google Cloud."""
    if _PROJECT.match(text):
        return text
    return _refuse(text, option, "no project's id", text.strip().lower().replace("_", "-"))


def zone(text: str, option: str = "--zone") -> str:
    """A zone of Google Cloud."""
    if _ZONE.match(text):
        return text
    meant = text.strip().lower()
    what = "a region, and a TPU is in a zone" if _REGION.match(text) else "no zone"
    return _refuse(text, option, what, f"{meant}-a" if _REGION.match(meant) else meant)


def location(text: str, option: str = "--location") -> str:
    """A zone or a region, as a GKE cluster is in."""
    if _ZONE.match(text) or _REGION.match(text):
        return text
    return _refuse(text, option, "no zone and no region", text.strip().lower())


def resource(text: str, option: str) -> str:
    """The name or path of something in Google Cloud: a network, a reservation, a secret."""
    if _RESOURCE.match(text) and ".." not in text:
        return text
    return _refuse(text, option, "no name of a resource", "")


def account(text: str, option: str = "--service-account") -> str:
    """A service account's address."""
    if _ACCOUNT.match(text):
        return text
    return _refuse(text, option, "no service account's address", text.strip().lower())


def device(text: str, option: str = "--device") -> str:
    """A GPU of the host: its number, or its UUID, a MIG instance's too."""
    if re.match(r"^([0-9]{1,3}|(GPU|MIG)-[0-9A-Fa-f/-]{1,80})\Z", text):
        return text
    raise UserError(
        f"{option}: {quoted(text)} is no GPU", hint="a number or a UUID, as `nvidia-smi -L` has it"
    )


def seconds(text: str, option: str) -> int:
    """A duration such as 90s, 30m, 2h, in seconds."""
    if found := _SECONDS.match(text):
        made = int(found[1]) * _PER_UNIT[found[2]]
        if made > LONGEST:
            raise UserError(f"{option}: {text} is longer than a week")
        return made
    hint = f"did you mean '{text}s'?" if text.isascii() and text.isdigit() else "as 90s, 30m or 2h"
    raise UserError(f"{option}: {quoted(text)} is no duration", hint=hint)


def cpus(text: str, option: str = "--cpus", *, pinned: bool = True) -> int:
    """A whole number of CPUs: where they are `pinned`, the kubelet gives no parts of them."""
    if re.match(r"^[1-9][0-9]{0,3}\Z", text):
        return int(text)
    hint = "a whole number"
    if pinned:
        hint += ": the kubelet's static CPU manager pins no parts of a CPU"
    if found := re.match(r"^([0-9]+)000m\Z", text):
        hint = f"did you mean '{found[1]}'?"
    raise UserError(f"{option}: {quoted(text)} is no number of CPUs", hint=hint)


def replicas(number: int, option: str = "--replicas") -> int:
    """How many; none is a deployment that is switched off."""
    if not 0 <= number <= 10_000:
        raise UserError(f"{option}: {number} is no number of replicas", hint="0 to 10000")
    return number


def given(text: str | None, check: Callable[[str, str], _T], option: str) -> _T | None:
    """What an option is checked to be; None where it was not given. An empty text was."""
    return None if text is None else check(text, option)


def unique(names: Iterable[str], option: str) -> None:
    """Raises UserError where a name comes twice."""
    seen = set()
    for given in names:
        if given in seen:
            raise UserError(f"{option}: {given} is given twice")
        seen.add(given)


def _unprintable(sign: str) -> bool:
    number = ord(sign)
    return 0xD800 <= number <= 0xDFFF or number in (0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)


def _like_a_label(text: str) -> str:
    made = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:LONGEST_NAME].strip("-")
    made = made if not made[:1].isdigit() else f"m-{made}"
    return made if _LABEL.match(made) else ""


def _refuse(text: str, option: str, what: str, hint: str) -> str:
    meant = f"did you mean {hint!r}?" if hint and hint != text else ""
    raise UserError(f"{option}: {quoted(text)} is {what}", hint=meant)
