"""The flow: stages from the log to the answer, and the drivers that run them."""
