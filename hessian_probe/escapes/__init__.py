"""`escape`: a move off a classified saddle or maximum, proved by a lower loss."""
