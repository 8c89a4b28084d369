"""What a job will cost in products, seconds and bytes, before it begins."""
