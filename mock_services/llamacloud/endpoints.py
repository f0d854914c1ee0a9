"""The endpoints of files and parse jobs."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mock_services.exchange import Exchange
from mock_services.faults import Stage
from mock_services.llamacloud.errors import ApiError
from mock_services.llamacloud.jobs import Job, Status, StoredFile
from mock_services.llamacloud.requests import PURPOSES, VERSIONS, ParseRequest, new_job, read_parse_request
from mock_services.llamacloud.results import expanded
from mock_services.llamacloud.runner import JobRunner
from mock_services.llamacloud.store import Store

_FORM_PART_BYTES = 4 * 2**20
_MAX_PAGE_SIZE = 1000


class Endpoints:
    """One method an operation; the names are those that faults and counters know."""

    runner: JobRunner

    def __init__(self, store: Store, exchange: Exchange, max_upload_bytes: int) -> None:
        self._store = store
        self._exchange = exchange
        self._max_upload_bytes = max_upload_bytes

    async def create_file(self, request: Request) -> Response:
        """Keep an uploaded file."""
        form = await self._form(request)
        name, content = await self._uploaded(form)
        purpose, external = form.get("purpose"), form.get("external_file_id")
        if purpose not in PURPOSES:
            raise _invalid("purpose", f"Input should be one of {', '.join(PURPOSES)}")
        external_file_id = external if isinstance(external, str) and external else None

        async def work() -> Response:
            return JSONResponse(self._add_file(name, content, str(purpose), external_file_id).shown())

        return await self._run("create_file", [name, external_file_id or ""], work)

    async def create_parse_job(self, request: Request) -> Response:
        """Start a job on an uploaded file or an address."""
        asked = read_parse_request(await request.body(), uploaded=False)
        file = self._store.files.get(asked.file_id) if asked.file_id else None
        if asked.file_id and file is None:
            raise ApiError(404, f"File {asked.file_id} not found")
        return await self._create("create_parse_job", asked, lambda: file)

    async def upload_and_parse(self, request: Request) -> Response:
        """Keep a file and start a job on it."""
        form = await self._form(request)
        configuration = form.get("configuration")
        if not isinstance(configuration, str):
            raise _invalid("configuration", "Field required")
        name, content = await self._uploaded(form)
        asked = read_parse_request(configuration, uploaded=True)
        return await self._create("upload_and_parse", asked, lambda: self._add_file(name, content, "parse", None), name)

    async def get_parse_job(self, request: Request) -> Response:
        """A job, and the parts of its result that `expand` names."""
        job = self._job(request)
        expand = [part for value in request.query_params.getlist("expand") for part in value.split(",") if part]

        async def work() -> Response:
            return JSONResponse(expanded(job, expand, lambda: self._store.pages(job.id)))

        return await self._run("get_parse_job", job.subjects(), work)

    async def list_parse_jobs(self, request: Request) -> Response:
        """Jobs, newest first, filtered and page by page."""
        query = request.query_params
        status, ids = query.get("status"), set(query.getlist("job_ids"))
        if status is not None and status not in list(Status):
            raise _invalid("status", f"Input should be one of {', '.join(Status)}", "query")
        size = _whole_number(query.get("page_size", "100"), "page_size", least=1, most=_MAX_PAGE_SIZE)
        before = _whole_number(query.get("page_token", str(2**62)), "page_token", least=0, most=2**62)

        async def work() -> Response:
            jobs = [
                job
                for job in reversed(self._store.jobs.values())
                if job.number < before and (status is None or job.status == status) and (not ids or job.id in ids)
            ]
            token = str(jobs[size - 1].number) if len(jobs) > size else None
            return JSONResponse({"items": [job.shown() for job in jobs[:size]], "next_page_token": token})

        return await self._run("list_parse_jobs", [], work)

    async def cancel_parse_job(self, request: Request) -> Response:
        """Stop a job that is not finished; 400 if it is."""
        job = self._job(request)

        async def work() -> Response:
            if job.finished:
                raise ApiError(400, f"Job {job.id} is {job.status.value} and cannot be cancelled")
            self.runner.cancel(job)
            return JSONResponse(job.shown())

        return await self._run("cancel_parse_job", job.subjects(), work)

    async def delete_parse_job(self, request: Request) -> Response:
        """Forget a finished job; 400 if it is not finished."""
        job = self._job(request)

        async def work() -> Response:
            if not job.finished:
                raise ApiError(400, f"Job {job.id} is {job.status.value}: cancel it before deleting it")
            self._store.delete_job(job.id)
            return JSONResponse({"id": job.id, "project_id": job.project_id})

        return await self._run("delete_parse_job", job.subjects(), work)

    async def list_versions(self, _: Request) -> Response:
        """Versions of each tier."""

        async def work() -> Response:
            return JSONResponse(VERSIONS | {"latest": {tier: versions[0] for tier, versions in VERSIONS.items()}})

        return await self._run("list_versions", [], work)

    async def _create(
        self, operation: str, asked: ParseRequest, take_file: Callable[[], StoredFile | None], name: str = ""
    ) -> Response:
        draft = new_job(asked, None if name else take_file(), self._store.project_id)
        subjects = [*draft.subjects()[1:], *([name] if name else [])]

        async def work() -> Response:
            file = take_file()
            job = self._store.add_job(new_job(asked, file, self._store.project_id))
            shown = job.shown()
            self._exchange.calls.add_inputs([(file.sha256 if file else job.source_url or "").encode()])
            if self._exchange.faults.take(Stage.SUBMIT, operation, job.subjects()):
                await self.runner.run_to_the_end(job)
            else:
                self.runner.start(job)
            return JSONResponse(shown)

        return await self._run(operation, subjects, work)

    async def _run(self, operation: str, subjects: list[str], work: Callable[[], Awaitable[Response]]) -> Response:
        async def answered() -> Response:
            try:
                return await work()
            except ApiError as error:
                return error.response()

        return await self._exchange.run(operation, subjects, answered)

    async def _form(self, request: Request) -> FormData:
        # the form's own framing adds a little to the file
        if int(request.headers.get("content-length", "0")) > self._max_upload_bytes + 2**16:
            raise ApiError(413, f"File too large: at most {self._max_upload_bytes} bytes")
        try:
            return await request.form(max_part_size=_FORM_PART_BYTES)
        except HTTPException as error:
            raise _invalid("file", f"The form cannot be read: {error.detail}") from error

    async def _uploaded(self, form: FormData) -> tuple[str, bytes]:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise _invalid("file", "Field required")
        if (upload.size or 0) > self._max_upload_bytes:
            raise ApiError(413, f"File too large: at most {self._max_upload_bytes} bytes")
        return upload.filename or "file", await upload.read()

    def _add_file(self, name: str, content: bytes, purpose: str, external_file_id: str | None) -> StoredFile:
        return self._store.add_file(name, content, purpose, external_file_id)

    def _job(self, request: Request) -> Job:
        job = self._store.jobs.get(request.path_params["job_id"])
        if job is None:
            raise ApiError(404, f"Job {request.path_params['job_id']} not found")
        return job


def _invalid(field: str, message: str, where: str = "body") -> ApiError:
    detail: list[dict[str, Any]] = [{"loc": [where, field], "msg": message, "type": "value_error"}]
    return ApiError(422, detail)


def _whole_number(text: str, field: str, *, least: int, most: int) -> int:
    number = int(text) if text.isdecimal() else -1
    if not least <= number <= most:
        raise _invalid(field, f"Input should be between {least} and {most}", "query")
    return number
