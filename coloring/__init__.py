"""A user's photographs: what was named, colored, remembered; the page's visitors."""
