"""Bulk jobs over Parquet: rows in, the same rows plus results out, whatever is killed on the way."""

from .caption import CaptionSpec, caption_parquet
from .chat import ChatSpec, chat_parquet
from .embedding import EmbeddingSpec, embed_parquet
from .errors import (
    BulkError,
    CorruptInput,
    GridUnavailable,
    InputError,
    JobIncomplete,
    TargetError,
    TooManyErrors,
    WorkerTrouble,
)
from .generate import GenerateSpec, generate_parquet
from .job import BulkJob, BulkReport
from .operators import OperatorSpec, Results, RowOperator
from .plan import Plan
from .progress import Progress
from .run import RunOptions
from .transcribe import TranscribeSpec, transcribe_parquet
from .watch import Patience

__all__ = [
    "BulkError",
    "BulkJob",
    "BulkReport",
    "CaptionSpec",
    "ChatSpec",
    "CorruptInput",
    "EmbeddingSpec",
    "GenerateSpec",
    "GridUnavailable",
    "InputError",
    "JobIncomplete",
    "OperatorSpec",
    "Patience",
    "Plan",
    "Progress",
    "Results",
    "RowOperator",
    "RunOptions",
    "TargetError",
    "TooManyErrors",
    "TranscribeSpec",
    "WorkerTrouble",
    "caption_parquet",
    "chat_parquet",
    "embed_parquet",
    "generate_parquet",
    "transcribe_parquet",
]
