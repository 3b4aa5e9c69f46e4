"""Color a user's photographs: find, color and record them; serve the visitors of the page."""
