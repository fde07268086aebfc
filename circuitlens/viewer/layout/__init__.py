"""The parts of the page and where they stand; callbacks and the page's script fill and change them."""
