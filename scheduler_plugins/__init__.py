"""The rules attached to Dask: facts in, verdict out, applied. The only readers of scheduler state."""
