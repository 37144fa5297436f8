"""The model server: one process per user that holds the model, and the client that everyone else uses."""
