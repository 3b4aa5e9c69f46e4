"""A cache on disk: its originals, its plan, its shards."""
