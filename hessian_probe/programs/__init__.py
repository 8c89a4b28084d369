"""Reading a traced loss: one walker over its program, and three sets of rules."""
