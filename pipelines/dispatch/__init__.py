"""From the store to a worker and back: claims, attempts, leases; no result is lost, none counted twice."""
