"""One module a revision. A revision that was released is never changed; the next one mends it."""
