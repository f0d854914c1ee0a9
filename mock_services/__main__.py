"""`python -m mock_services`: both services in one process."""

import argparse
import asyncio
import os
from pathlib import Path

import uvloop

from mock_services.llamacloud.app import LlamaCloudOptions, create_llamacloud_app
from mock_services.openai.app import OpenAIOptions, create_openai_app
from mock_services.servers import listen, serve


def make_argument_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser("python -m mock_services", description="Mock LlamaCloud and OpenAI services.")
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--llamacloud-port", type=int, default=0, help="0 takes a free port, see addresses.json in the state directory")
    add("--openai-port", type=int, default=0)
    add("--state-dir", type=Path, required=True, help="files, jobs and results; survives a crash")
    add("--parse-seconds", type=float, default=0.0, help="what each parse takes at least")
    add("--parse-timeout", type=float, default=300.0, help="seconds after which a parse fails with TIMEOUT")
    add("--parse-workers", type=int, default=os.cpu_count() or 2, help="documents parsed at the same time")
    add("--max-pages", type=int, default=5_000, help="more fail with TOO_MANY_PAGES")
    add("--max-upload-megabytes", type=float, default=512.0, help="more are refused with 413")
    add("--webhook-retry-seconds", type=float, nargs="*", default=[1.0, 2.0], help="waits between delivery attempts")
    add("--vectors", choices=["meaningful", "instant"], default="meaningful")
    add("--estimate-tokens", action="store_true", help="four characters a token: for benchmarks")
    add("--requests-per-minute", type=int, default=10_000, help="of the embeddings API, shown in its headers")
    add("--tokens-per-minute", type=int, default=10_000_000)
    add("--enforce-rate-limits", action="store_true", help="answer 429 where these limits are reached")
    return parser


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = make_argument_parser().parse_args()
    options.state_dir.mkdir(parents=True, exist_ok=True)
    listeners = {
        "llamacloud": listen(options.host, options.llamacloud_port),
        "openai": listen(options.host, options.openai_port),
    }
    apps = {
        "llamacloud": create_llamacloud_app(
            LlamaCloudOptions(
                state_directory=options.state_dir / "llamacloud",
                parse_seconds=options.parse_seconds,
                parse_timeout=options.parse_timeout,
                max_pages=options.max_pages,
                max_upload_bytes=int(options.max_upload_megabytes * 2**20),
                webhook_retry_seconds=tuple(options.webhook_retry_seconds),
                workers=options.parse_workers,
            )
        ),
        "openai": create_openai_app(
            OpenAIOptions(
                vectors=options.vectors,
                estimate_tokens=options.estimate_tokens,
                requests_a_minute=options.requests_per_minute,
                tokens_a_minute=options.tokens_per_minute,
                enforce_rate_limits=options.enforce_rate_limits,
            )
        ),
    }
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(apps, listeners, options.state_dir))


if __name__ == "__main__":
    main()
