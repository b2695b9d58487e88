"""LLM deployments: replicas of engines kept alive on the grid, and streams that outlive the replica that began them."""
