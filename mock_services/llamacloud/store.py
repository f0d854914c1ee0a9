"""What survives a crash: one JSON file a record, written whole and renamed into place; an index in memory."""

import hashlib
import shutil
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, TypeAdapter

from mock_services.llamacloud.jobs import Job, StoredFile, now
from mock_services.llamacloud.parsing import ParsedPage

_PAGES = TypeAdapter(list[ParsedPage])


class Store:
    """Files, jobs and results in a directory. Used from the event loop only; writes take well under a millisecond."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open()

    def _open(self) -> None:
        self._folders = {name: self._directory / name for name in ("files", "contents", "jobs", "results")}
        for folder in self._folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        project = self._directory / "project"
        if not project.exists():
            _write(project, f"prj-{uuid4()}".encode())
        self.project_id = project.read_text()
        files = [StoredFile.model_validate_json(path.read_bytes()) for path in self._folders["files"].glob("*.json")]
        jobs = [Job.model_validate_json(path.read_bytes()) for path in self._folders["jobs"].glob("*.json")]
        self.files = {file.id: file for file in files}
        self.jobs = {job.id: job for job in sorted(jobs, key=lambda job: job.number)}
        self._last_number = max((job.number for job in jobs), default=0)

    def add_file(self, name: str, content: bytes, purpose: str, external_file_id: str | None) -> StoredFile:
        """Keep a file; its bytes are on disk before its record is."""
        file = StoredFile(
            name=name,
            project_id=self.project_id,
            purpose=purpose,
            external_file_id=external_file_id,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
        )
        _write(self.content_path(file.id), content)
        self._save("files", file.id, file)
        self.files[file.id] = file
        return file

    def content_path(self, file_id: str) -> Path:
        """Where a file's bytes are."""
        return self._folders["contents"] / file_id

    def add_job(self, job: Job) -> Job:
        """Keep a new job, numbered in order of creation."""
        self._last_number += 1
        job.number = self._last_number
        self.jobs[job.id] = job
        self._save("jobs", job.id, job)
        return job

    def save_job(self, job: Job) -> None:
        """Keep a job's new state."""
        job.updated_at = now()
        self._save("jobs", job.id, job)

    def delete_job(self, job_id: str) -> None:
        """Forget a job and its result."""
        del self.jobs[job_id]
        for folder in ("results", "jobs"):
            (self._folders[folder] / f"{job_id}.json").unlink(missing_ok=True)

    def save_pages(self, job_id: str, pages: list[ParsedPage]) -> None:
        """Keep a result; call it before the job is saved as completed."""
        _write(self._folders["results"] / f"{job_id}.json", _PAGES.dump_json(pages))

    def pages(self, job_id: str) -> list[ParsedPage]:
        """The result of a completed job."""
        return _PAGES.validate_json((self._folders["results"] / f"{job_id}.json").read_bytes())

    def clear(self) -> None:
        """Forget every file, job and result; the project stays."""
        for folder in self._folders.values():
            shutil.rmtree(folder)
        self._open()

    def _save(self, folder: str, name: str, record: BaseModel) -> None:
        _write(self._folders[folder] / f"{name}.json", record.model_dump_json().encode())


def _write(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(path)
