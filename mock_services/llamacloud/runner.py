"""Runs parse jobs: from PENDING to a final status, with the scripted faults of each, and announces every step."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx

from mock_services.faults import Fault, FaultBook, Kind, Stage
from mock_services.llamacloud.isolation import parse_isolated, preload_parsers, warm_up
from mock_services.llamacloud.jobs import Job, Status
from mock_services.llamacloud.page_ranges import selected_pages
from mock_services.llamacloud.parsing import DocumentError, ParsedPage
from mock_services.llamacloud.store import Store
from mock_services.llamacloud.webhooks import WebhookSender

OPERATION = "run_job"
_FAILURE_TEXTS = {
    "UNSUPPORTED_FILE_TYPE": "The file type is not supported.",
    "PDF_IS_PROTECTED": "The PDF is protected by a password.",
    "PDF_IS_BROKEN": "The PDF cannot be read.",
    "NO_DATA_FOUND_IN_FILE": "No text could be extracted from the file.",
    "DOCUMENT_TOO_LARGE": "The document is too large.",
    "TOO_MANY_PAGES": "The document has too many pages.",
    "TIMEOUT": "Parsing took too long.",
}


class JobRunner:
    """One task a job; parsing itself goes to a few threads, each of which waits for a process."""

    def __init__(
        self,
        store: Store,
        sender: WebhookSender,
        faults: FaultBook,
        *,
        parse_seconds: float,
        parse_timeout: float,
        max_pages: int,
        workers: int,
    ) -> None:
        self._store = store
        self._sender = sender
        self._faults = faults
        self._parse_seconds = parse_seconds
        self._parse_timeout = parse_timeout
        self._max_pages = max_pages
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="parser")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._announcements: dict[asyncio.Task[None], str] = {}
        preload_parsers()
        self._threads.submit(warm_up)

    def resume(self) -> None:
        """Take up every job that is not finished, from its start."""
        for job in list(self._store.jobs.values()):
            if not job.finished:
                self.start(job)

    def start(self, job: Job) -> asyncio.Task[None]:
        """Run a job in the background."""
        task = asyncio.create_task(self._run(job))
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        return task

    async def run_to_the_end(self, job: Job) -> None:
        """Run a job and wait until its webhooks are delivered or given up."""
        await self.start(job)
        own = [task for task, job_id in self._announcements.items() if job_id == job.id]
        await asyncio.gather(*own, return_exceptions=True)

    def cancel(self, job: Job) -> None:
        """Stop a job that is not finished."""
        self.forget(job)
        self._finish(job, Status.CANCELLED, "parse.cancelled")

    def forget(self, job: Job) -> None:
        """Stop working on a job without a word to anyone."""
        task = self._tasks.pop(job.id, None)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Drop what is running; the store still has it."""
        tasks = [*self._tasks.values(), *self._announcements]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, job: Job) -> None:
        self._announce(job, "parse.pending")
        faults = self._faults.take(Stage.JOB, OPERATION, job.subjects())
        delay = self._parse_seconds
        outcome: Fault | None = None
        for fault in faults:
            if fault.kind is Kind.PARSE_DELAY:
                delay += fault.seconds or 0
            else:
                outcome = fault
        job.status = Status.RUNNING
        self._store.save_job(job)
        self._announce(job, "parse.running")
        timeout = min(self._parse_timeout, job.timeout_seconds or self._parse_timeout)
        try:
            pages = await self._parse(job, delay, timeout, outcome)
        except DocumentError as failure:
            job.error_code, job.error_text = failure.code, failure.message
            self._finish(job, Status.FAILED, "parse.error")
            return
        self._store.save_pages(job.id, pages)
        job.page_count = len(pages)
        failed = any(page.error is not None for page in pages)
        self._finish(job, Status.COMPLETED, "parse.partial_success" if failed else "parse.success")

    async def _parse(self, job: Job, delay: float, timeout: float, outcome: Fault | None) -> list[ParsedPage]:
        await asyncio.sleep(min(delay, timeout))
        if delay > timeout:
            raise DocumentError("TIMEOUT", f"Parsing took longer than {timeout:g} s.")
        if outcome is not None and outcome.kind is Kind.NEVER_FINISH:
            await asyncio.Event().wait()
        if outcome is not None and outcome.kind is Kind.JOB_FAILURE and outcome.code:
            raise DocumentError(outcome.code, outcome.message or _FAILURE_TEXTS[outcome.code])
        path = self._store.content_path(job.file_id) if job.file_id else await self._download(job)
        loop = asyncio.get_running_loop()
        pages = await loop.run_in_executor(self._threads, parse_isolated, path, job.name, timeout)
        if len(pages) > self._max_pages:
            message = f"The document has {len(pages)} pages, {self._max_pages} are allowed."
            raise DocumentError("TOO_MANY_PAGES", message)
        pages = selected_pages(pages, job.target_pages, job.max_pages)
        if outcome is not None and outcome.kind is Kind.PARTIAL:
            error = outcome.message or "OCR failed"
            pages = [
                replace(page, markdown="", text="", error=error) if page.number in outcome.pages else page
                for page in pages
            ]
        return pages

    async def _download(self, job: Job) -> Path:
        path = self._store.content_path(job.id)
        try:
            async with httpx.AsyncClient(timeout=30, follow_redirects=True) as client:
                response = await client.get(job.source_url or "")
                response.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DocumentError("DOWNLOAD_FAILED", f"The source could not be downloaded: {error}") from error
        path.write_bytes(response.content)
        return path

    def _finish(self, job: Job, status: Status, event_type: str) -> None:
        job.status = status
        self._store.save_job(job)
        self._announce(job, event_type)

    def _announce(self, job: Job, event_type: str) -> None:
        if not job.webhooks:
            return
        task = asyncio.create_task(self._sender.announce(job, event_type))
        self._announcements[task] = job.id
        task.add_done_callback(lambda done: self._announcements.pop(done, None))
