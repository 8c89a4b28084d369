"""The cost of a job in products, seconds and bytes, before it begins."""
