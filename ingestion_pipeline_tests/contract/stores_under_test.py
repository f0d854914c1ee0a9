"""What the suites of the object store share: an S3 server in a process of its own, ways to fill and list a store."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import boto3  # type: ignore[import-untyped]  # ships no types, and here only makes and lists

from ingestion_pipeline.adapters.object_store import ObstoreObjectStore, s3_object_store
from ingestion_pipeline.ports import ObjectStore

ACCESS_KEY, SECRET = "AKIDEXAMPLE", "a-secret-that-no-message-shows"
MEGABYTE = 1 << 20
SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class S3Server:
    """A process that speaks S3 and holds one empty bucket."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | environment,
        )
        assert self._process.stdout
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
        )
        self.client.create_bucket(Bucket="documents")

    def store(self, **changes: Any) -> ObstoreObjectStore:
        given = {"bucket": "documents", "endpoint_url": self.url, "region": "us-east-1"}
        return s3_object_store(**given | {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET} | changes)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


async def parts_of(data: bytes, part_bytes: int = 64 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(data), part_bytes):
        yield data[start : start + part_bytes]


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted(entry.key for entry in store.list(prefix))
