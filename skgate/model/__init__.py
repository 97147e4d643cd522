"""A Hugging Face model: loaded, taken apart, its residual stream read and edited."""
