"""Reading a traced loss: one walker over its program (a jaxpr), and three sets of rules."""
