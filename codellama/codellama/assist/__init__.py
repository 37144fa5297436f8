"""What is done with model and index together: completions and cited answers. Never imports torch."""
