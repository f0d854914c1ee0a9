"""The sample documents: there, small, of several types, and with the answers that the questions about them expect."""

from importlib.resources import files
from pathlib import Path

import pytest

from ingestion_pipeline.cli.demo import QUESTIONS_ASKED, Question, read_questions, sample_files
from ingestion_pipeline.stages.verify import UploadVerifier, declared_type
from mock_services.llamacloud.parsing import parse_document

FOLDER = Path(str(files("ingestion_pipeline") / "samples"))
SAMPLES = sample_files(FOLDER)
QUESTIONS = read_questions(FOLDER)


def text_of(file: Path) -> str:
    pages = parse_document(file.read_bytes(), file.name)
    return " ".join(" ".join(page.markdown for page in pages).split())


def test_there_are_six_samples_of_five_types_in_less_than_300_kilobytes() -> None:
    assert sorted(file.suffix for file in SAMPLES) == [".docx", ".html", ".md", ".pdf", ".pdf", ".txt"]
    assert sum(file.stat().st_size for file in SAMPLES) < 300_000


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.name)
def test_a_sample_passes_the_verification_of_uploads(file: Path) -> None:
    content = file.read_bytes()
    verifier = UploadVerifier(file.name, declared_type(None, file.name), limit_bytes=300_000)
    verifier.feed(content)
    assert verifier.finish().size_bytes == len(content)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.question)
def test_the_sentence_that_answers_a_question_stands_in_its_file_and_in_no_other(question: Question) -> None:
    holders = [file.name for file in SAMPLES if question.sentence in text_of(file)]
    assert holders == [question.file]


def test_there_are_ten_questions_and_the_demos_ask_for_three_different_files() -> None:
    assert len(QUESTIONS) == 10
    assert len({question.file for question in QUESTIONS[:QUESTIONS_ASKED]}) == 3
    assert {question.file for question in QUESTIONS} == {file.name for file in SAMPLES}
