"""`python -m mock_services.object_store`: a mock of S3 (moto's server) with one bucket, for containers.

It keeps objects in memory and accepts any signature: it stands in for a store's calls, not for its safety.
"""

import argparse
import threading

import boto3
from moto.server import main as serve_moto


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python -m mock_services.object_store", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bucket", required=True, help="made once the server answers")
    options = parser.parse_args()
    threading.Thread(target=_make_bucket, args=(options.port, options.bucket), name="bucket", daemon=True).start()
    serve_moto(["--host", options.host, "--port", str(options.port)])


def _make_bucket(port: int, bucket: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="mock",
        aws_secret_access_key="mock",  # noqa: S106 - moto accepts any
    )
    client.create_bucket(Bucket=bucket)  # the client repeats refused connections until the server listens


if __name__ == "__main__":
    main()
