"""Where vLLM isn't installed (everywhere but in `make test-vllm`'s environment) nothing here is collected."""

from importlib.metadata import PackageNotFoundError, distribution

try:
    distribution("vllm")
except PackageNotFoundError:
    collect_ignore_glob = ["*"]
