"""Where dask-cuda isn't installed (everywhere but in `make test-dask-cuda`'s environment) nothing here is collected."""

from importlib.metadata import PackageNotFoundError, distribution

try:
    distribution("dask-cuda")
except PackageNotFoundError:
    collect_ignore_glob = ["*"]
