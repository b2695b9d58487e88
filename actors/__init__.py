"""What stays on a GPU: resident models, batches, supervision."""
