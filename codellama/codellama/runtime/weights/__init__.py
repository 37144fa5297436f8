"""Readers of checkpoint formats; each yields Hugging Face's names of tensors."""
