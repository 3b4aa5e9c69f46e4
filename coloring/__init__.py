"""Color a user's photographs: find, color and record them."""
