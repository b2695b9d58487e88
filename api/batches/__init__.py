"""Batches: many requests in a file, computed with what the grid has left over, part by part."""
