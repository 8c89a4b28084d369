"""Review by the noise of the data: does the label hold for what the batches are a sample of?"""
