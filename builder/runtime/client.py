"""Smoke client: sends prompts to an OpenAI-compatible server and compares the greedy answers.

    client.py --url http://127.0.0.1:8000 --golden golden.json

`golden.json` is what `tinymodel.py --json` prints. Prints one JSON object per prompt; exits 0 when
every answer is the golden one, 1 when one is not, 2 when the server does not answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Dict, Iterator, Sequence

TIMEOUT = 120.0  # seconds for one answer: a first request may compile kernels
# What JSON of another shape than expected leads to.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)
# A proxy of the site's must not see what is asked of this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(url: str, body: Dict[str, Any]) -> Dict[str, Any]:
    """POST JSON, get JSON; raises OSError (urllib's) or ValueError."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return _answer(request)


def get(url: str) -> Dict[str, Any]:
    """GET JSON; raises OSError (urllib's) or ValueError."""
    return _answer(urllib.request.Request(url))


def _answer(request: urllib.request.Request) -> Dict[str, Any]:
    with _OPENER.open(request, timeout=TIMEOUT) as response:
        answer = json.load(response)
    if not isinstance(answer, dict):
        raise ValueError(f"not an object: {str(answer)[:80]}")  # noqa: TRY004 - the data is wrong
    return answer


def compare(url: str, golden: Sequence[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
    """Ask for each golden prompt's completion, greedily; yields what was wanted and what came.

    Token ids are compared where the server gives them, the text everywhere.
    """
    model = get(f"{url}/v1/models")["data"][0]["id"]
    for wanted in golden:
        start = time.monotonic()
        answer = post(
            f"{url}/v1/completions",
            {
                "model": model,
                "prompt": wanted["prompt"],
                "max_tokens": len(wanted["tokens"]),
                "temperature": 0,
                "return_token_ids": True,
            },
        )["choices"][0]
        tokens = answer.get("token_ids")
        same_tokens = tokens is None or tokens == wanted["tokens"]
        yield {
            "prompt": wanted["prompt"],
            "wanted": wanted["completion"],
            "got": answer["text"],
            "tokens": tokens,
            "same": same_tokens and answer["text"] == wanted["completion"],
            "seconds": round(time.monotonic() - start, 3),
        }


def main() -> int:
    """Ask, print, compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True, help="the server, as http://127.0.0.1:8000")
    parser.add_argument("--golden", required=True, help="file with prompts and completions")
    arguments = parser.parse_args()
    with open(arguments.golden, encoding="utf-8") as file:
        golden = json.load(file)["prompts"]
    same = True
    try:
        for answer in compare(arguments.url.rstrip("/"), golden):
            print(json.dumps(answer), flush=True)
            same = same and answer["same"]
    except urllib.error.HTTPError as error:
        print(f"{error.url}: {error.code} {error.read()[:300]!r}", file=sys.stderr)
        return 2
    except (OSError, http.client.HTTPException, *_MALFORMED) as error:
        print(f"{arguments.url}: {error!r}", file=sys.stderr)
        return 2
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
