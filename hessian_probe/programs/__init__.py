"""Reading a traced loss: one walker over its program, and rules for what is noticed."""
