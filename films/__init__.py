"""Films: read, colored steadily, written with their sound."""
