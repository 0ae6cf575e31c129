"""A model folder's tokenizer.json and chat template, without transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from .engine import RequestError, ServerError


class FolderTokenizer:
    """The tokenizer of a Hugging Face model folder. Raises ServerError if there is none."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer  # only in images

        file = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ServerError(f"{file}: {error}") from error
        settings = _read(folder / "tokenizer_config.json")
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        self.eos_ids = self._eos_ids(folder, settings)
        self._special = {
            key: _content(value) for key, value in settings.items() if key.endswith("_token")
        }
        self._template = _compile(_template_source(folder, settings))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        if self._template is None:
            raise RequestError("this model has no chat template; use /v1/completions")
        try:
            text = self._template.render(
                messages=messages, add_generation_prompt=True, **self._special
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise RequestError(f"the chat template refuses the messages: {error}") from error
        # The template writes the special tokens itself.
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))

    def _eos_ids(self, folder: Path, settings: dict[str, Any]) -> frozenset[int]:
        # In the order in which transformers believes them.
        for name in ("generation_config.json", "config.json"):
            ids = _read(folder / name).get("eos_token_id")
            if ids is not None:
                return frozenset(ids if isinstance(ids, list) else [ids])
        token = _content(settings.get("eos_token"))
        found = self._tokenizer.token_to_id(token) if token else None
        return frozenset() if found is None else frozenset([found])


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ServerError(f"{file}: {error}") from error
    return value if isinstance(value, dict) else {}


def _content(token: Any) -> Any:
    """A special token's text: it is written as text, or as an object with flags."""
    return token.get("content") if isinstance(token, dict) else token


def _template_source(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found


def _compile(source: str | None) -> jinja2.Template | None:
    """A template with what transformers gives one: sandbox, loop controls, three functions."""
    if source is None:
        return None
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ServerError(f"the model's chat template: {error}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
