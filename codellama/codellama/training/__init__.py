"""How the pocket model is made: corpus, tokenizer, samples, training, export.

Run `python -m codellama.training.train --help`. Nothing else in the project imports this package, and
of the project it imports only the runtime, so that what is trained is what is run.
"""
