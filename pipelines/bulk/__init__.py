"""Bulk jobs over Parquet: rows in, the same rows plus results out, whatever is killed on the way."""

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
from .job import BulkJob, BulkReport
from .operators import OperatorSpec, Results, RowOperator
from .plan import Plan
from .progress import Progress
from .transcribe import TranscribeSpec, transcribe_parquet
from .watch import Patience

__all__ = [
    "BulkError",
    "BulkJob",
    "BulkReport",
    "ChatSpec",
    "CorruptInput",
    "EmbeddingSpec",
    "GridUnavailable",
    "InputError",
    "JobIncomplete",
    "OperatorSpec",
    "Patience",
    "Plan",
    "Progress",
    "Results",
    "RowOperator",
    "TargetError",
    "TooManyErrors",
    "TranscribeSpec",
    "WorkerTrouble",
    "chat_parquet",
    "embed_parquet",
    "transcribe_parquet",
]
