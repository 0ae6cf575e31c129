#!/usr/bin/env python3
"""A stand-in for the servers of wrapped images: knows their options, and has no model.

Installed as `text-generation-launcher` and as `trtllm-serve`; like them it refuses an option that
the real one does not know, and answers /health. It computes nothing, so it proves nothing of them.
"""

import argparse
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Options that take a value; the real ones have more of them.
# text-generation-inference 3.3.7, docs/source/reference/launcher.md
TGI = """model-id revision validation-workers sharded num-shard quantize speculate dtype
    kv-cache-dtype max-concurrent-requests max-best-of max-stop-sequences max-top-n-tokens
    max-input-tokens max-input-length max-total-tokens waiting-served-ratio
    max-batch-prefill-tokens max-batch-total-tokens max-waiting-tokens max-batch-size cuda-graphs
    hostname port shard-uds-path master-addr master-port huggingface-hub-cache
    cuda-memory-fraction rope-scaling rope-factor otlp-endpoint cors-allow-origin api-key"""
# TensorRT-LLM, commands/trtllm-serve of its documentation
TRTLLM = """tokenizer host port backend max_beam_width max_batch_size max_num_tokens max_seq_len
    tp_size pp_size ep_size kv_cache_free_gpu_memory_fraction extra_llm_api_options"""


class Handler(BaseHTTPRequestHandler):
    """/health, and nothing else."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()


def main() -> None:
    """Parse as the real one would, and listen."""
    name = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False)
    arguments = sys.argv[1:]
    if name == "trtllm-serve":
        assert arguments[:1] == ["serve"], "stand-in: only `trtllm-serve serve`"
        arguments = arguments[1:]
        parser.add_argument("model")
    else:  # "text-generation-launcher 3.3.7" is what the real one prints
        parser.add_argument("--version", action="version", version=f"{name} 0 (a stand-in)")
    for option in (TRTLLM if name == "trtllm-serve" else TGI).split():
        parser.add_argument(f"--{option}")
    given = parser.parse_args(arguments)
    host = getattr(given, "hostname", None) or getattr(given, "host", None) or "127.0.0.1"
    ThreadingHTTPServer((host, int(given.port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
