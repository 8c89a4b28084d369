"""Review at kinks: finite steps where second derivatives do not exist or mislead."""
