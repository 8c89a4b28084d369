"""Review at kinks: finite steps where second derivatives do not exist or do not tell."""
