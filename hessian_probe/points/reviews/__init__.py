"""What second order cannot see: reviews of a verdict, each a room of its own."""
