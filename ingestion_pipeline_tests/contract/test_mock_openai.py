"""The mock OpenAI's embeddings through the unmodified SDK: shapes, limits, errors, and vectors that mean something."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from bpe_openai import get_encoding
from openai import AsyncOpenAI, OpenAI

from mock_services.openai.vectors import VectorKind, make_vector_source
from mock_services.process import MockServices, start_mock_services

SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    with start_mock_services(tmp_path_factory.mktemp("mock")) as running:
        yield running


@pytest.fixture(scope="module")
def instant_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    directory = tmp_path_factory.mktemp("instant")
    with start_mock_services(directory, vectors="instant", estimate_tokens=True) as running:
        yield running


def client_of(services: MockServices, key: str = "sk-test") -> OpenAI:
    return OpenAI(api_key=key, base_url=services.openai_base_url, max_retries=0)


@pytest.fixture(scope="module")
def client(services: MockServices) -> OpenAI:
    return client_of(services)


def embed(client: OpenAI, given: Any, model: str = SMALL, **options: Any) -> np.ndarray:
    answer = client.embeddings.create(model=model, input=given, **options)
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def test_a_text_gets_a_unit_vector_of_its_models_dimension(client: OpenAI) -> None:
    for model, dimensions in ((SMALL, 1536), (LARGE, 3072)):
        vectors = embed(client, "a text", model)
        assert vectors.shape == (1, dimensions)
        assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)


def test_floats_and_base64_are_the_same_numbers(client: OpenAI) -> None:
    texts = ["one text", "another"]
    by_default_in_base64 = embed(client, texts)
    assert np.array_equal(embed(client, texts, encoding_format="float"), by_default_in_base64)


def test_the_wire_format_is_what_was_asked_for(services: MockServices) -> None:
    def value(**options: Any) -> Any:
        answer = httpx.post(
            f"{services.openai_base_url}/embeddings",
            json={"model": SMALL, "input": "x", **options},
            headers={"authorization": "Bearer sk-test"},
        ).json()
        assert answer["object"] == "list"
        assert answer["model"] == SMALL
        return answer["data"][0]["embedding"]

    assert isinstance(value(encoding_format="base64"), str)
    assert isinstance(value(encoding_format="float"), list)
    assert isinstance(value(), list)


@pytest.mark.parametrize("mode", ["meaningful", "instant"])
@pytest.mark.parametrize("dimensions", [1, 100, 256, 512, 1536])
def test_dimensions_are_honoured_with_unit_length(
    services: MockServices, instant_services: MockServices, mode: str, dimensions: int
) -> None:
    client = client_of(services if mode == "meaningful" else instant_services)
    vectors = embed(client, ["a text", "two"], LARGE, dimensions=dimensions)
    assert vectors.shape == (2, dimensions)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("mode", ["meaningful", "instant"])
def test_a_text_has_the_same_vector_whatever_the_batch(
    services: MockServices, instant_services: MockServices, mode: str
) -> None:
    client = client_of(services if mode == "meaningful" else instant_services)
    alone = embed(client, "the lease ends in May")[0]
    for batch in (["the lease ends in May", "x"], ["word " * 500, "y", "the lease ends in May"]):
        position = batch.index("the lease ends in May")
        assert np.array_equal(embed(client, batch)[position], alone)
    assert np.array_equal(embed(client, "the lease ends in May")[0], alone)
    assert not np.array_equal(embed(client, "the lease ends in June")[0], alone)


@pytest.mark.parametrize("mode", ["meaningful", "instant"])
def test_vectors_are_the_same_in_every_process(
    services: MockServices, instant_services: MockServices, mode: VectorKind
) -> None:
    client = client_of(services if mode == "meaningful" else instant_services)
    (here,) = make_vector_source(mode).vectors(["stable"], SMALL, 1536)
    assert np.allclose(embed(client, "stable")[0], here, atol=1e-7)


def test_token_arrays_are_inputs_like_their_texts(client: OpenAI) -> None:
    tokens = get_encoding("cl100k_base").encode_ordinary("a sum of money")
    expected = embed(client, "a sum of money")
    assert np.array_equal(embed(client, tokens), expected)
    assert np.array_equal(embed(client, [tokens, tokens]), np.vstack([expected, expected]))
    with pytest.raises(openai.BadRequestError):
        embed(client, [[10**9]])


def test_a_paraphrase_is_nearer_than_an_unrelated_text(client: OpenAI) -> None:
    pairs = [
        ("How do I cancel my subscription?", "Ending your membership and stopping payments"),
        ("The roof leaks when it rains", "Water comes through the ceiling in a storm"),
        ("Quarterly revenue grew by ten percent", "Sales increased over the last three months"),
        ("The patient suffers from high blood pressure", "Hypertension was diagnosed by the doctor"),
        ("Feeding a puppy twice a day", "What young dogs should eat"),
    ]
    for model in (SMALL, LARGE):
        questions = embed(client, [question for question, _ in pairs], model)
        answers = embed(client, [answer for _, answer in pairs], model)
        assert list((questions @ answers.T).argmax(axis=1)) == list(range(len(pairs)))


def test_vectors_of_different_models_do_not_compare(client: OpenAI) -> None:
    small, large = (embed(client, "a lease", model, dimensions=1024)[0] for model in (SMALL, LARGE))
    assert abs(float(small @ large)) < 0.5


def test_usage_counts_tokens_as_plain_text(client: OpenAI) -> None:
    texts = ["hello world", "before <|endoftext|> after", "größer 名前"]
    encoding = get_encoding("cl100k_base")
    expected = sum(len(encoding.encode_ordinary(text)) for text in texts)
    usage = client.embeddings.create(model=SMALL, input=texts).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (expected, expected)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("", None),
        ([], None),
        (["fine", ""], None),
        ([[]], None),
        (["x"] * 2049, "array_above_max_length"),
        ("word " * 8200, "context_length_exceeded"),
        ([1] * 8193, "context_length_exceeded"),
        (["word " * 8000] * 38, "max_tokens_per_request"),
    ],
    ids=["empty", "no inputs", "one empty", "empty array", "2049 inputs", "8201 tokens", "8193 ids", "304000 tokens"],
)
def test_an_input_beyond_the_limits_is_refused(client: OpenAI, given: Any, code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        embed(client, given)
    assert refusal.value.param == "input"
    assert refusal.value.code == code
    assert refusal.value.type in ("invalid_request_error", "max_tokens_per_request")


def test_inputs_at_the_limits_are_accepted(client: OpenAI) -> None:
    assert embed(client, ["x"] * 2048).shape == (2048, 1536)
    assert embed(client, [[1] * 8192] * 36).shape == (36, 1536)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"dimensions": 1537}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_a_bad_option_is_refused(client: OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.embeddings.create(model=SMALL, input="x", **options)
    assert refusal.value.param == param


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refusal:
        embed(client, "x", "text-embedding-9")
    assert refusal.value.code == "model_not_found"


def test_a_missing_or_bad_key_is_refused(services: MockServices) -> None:
    with pytest.raises(openai.AuthenticationError) as refusal:
        embed(client_of(services, "llx-wrong"), "x")
    assert refusal.value.code == "invalid_api_key"
    answer = httpx.post(f"{services.openai_base_url}/embeddings", json={"model": SMALL, "input": "x"})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_no_json_is_refused(services: MockServices) -> None:
    headers = {"authorization": "Bearer sk-test"}
    answer = httpx.post(f"{services.openai_base_url}/embeddings", content=b"{", headers=headers)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_answers_carry_the_rate_limit_headers(client: OpenAI) -> None:
    headers = client.embeddings.with_raw_response.create(model=SMALL, input="hello world").headers
    for unit in ("requests", "tokens"):
        assert int(headers[f"x-ratelimit-remaining-{unit}"]) < int(headers[f"x-ratelimit-limit-{unit}"])
        assert headers[f"x-ratelimit-reset-{unit}"].endswith("ms")
    assert headers["x-request-id"].startswith("req_")


def test_limits_are_enforced_when_asked_for(tmp_path: Path) -> None:
    options = {"requests_per_minute": 3, "tokens_per_minute": 100, "enforce_rate_limits": True}
    with start_mock_services(tmp_path, vectors="instant", **options) as limited:
        client = client_of(limited)
        with pytest.raises(openai.RateLimitError) as too_many_tokens:
            embed(client, "word " * 200)
        assert too_many_tokens.value.type == "tokens"
        for _ in range(3):
            embed(client, "x")
        with pytest.raises(openai.RateLimitError) as too_many_requests:
            embed(client, "x")
        assert too_many_requests.value.type == "requests"
        assert too_many_requests.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_the_asynchronous_sdk_embeds_as_well(services: MockServices) -> None:
    async def embedded() -> int:
        async with AsyncOpenAI(api_key="sk-test", base_url=services.openai_base_url) as client:
            return len((await client.embeddings.create(model=SMALL, input=["a", "b"])).data)

    assert asyncio.run(embedded()) == 2


def test_calls_inputs_distinct_inputs_tokens_and_concurrency_are_counted(services: MockServices) -> None:
    services.control("openai", "POST", "reset")
    services.script("openai", "latency", seconds=0.3, times=None)
    client = client_of(services)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda texts: embed(client, texts), [["a", "b"], ["a"], ["c"], ["b", "b"]]))
    calls = services.control("openai", "GET", "calls")
    assert (calls["calls"], calls["inputs"], calls["distinct_inputs"], calls["tokens"]) == (4, 6, 3, 6)
    assert calls["max_in_flight"] == 4
    assert calls["in_flight"] == 0
    services.control("openai", "POST", "reset")
    assert services.control("openai", "GET", "calls")["calls"] == 0


def test_instant_vectors_answer_every_one_of_many_inputs(instant_services: MockServices) -> None:
    client = client_of(instant_services)
    texts = [f"{number} " + "a chunk of some document, " * 50 for number in range(1000)]
    answers = [client.embeddings.create(model=SMALL, input=texts[at : at + 200]) for at in range(0, len(texts), 200)]
    assert sum(len(answer.data) for answer in answers) == len(texts)


def test_estimated_tokens_still_respect_the_limit_of_an_input(instant_services: MockServices) -> None:
    client = client_of(instant_services)
    with pytest.raises(openai.BadRequestError):
        embed(client, "word " * 8200)
    usage = client.embeddings.create(model=SMALL, input="x" * 400).usage
    assert usage.prompt_tokens == 101
