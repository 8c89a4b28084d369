"""Review of flat directions: higher order, and descents along them."""
