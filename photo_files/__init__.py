"""A picture file, in and out: finding, opening, archives, writing."""
