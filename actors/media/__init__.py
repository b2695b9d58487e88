"""Sound and pictures of strangers, decoded where they can do no harm."""
