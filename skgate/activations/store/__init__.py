"""Where activations are kept between calls."""
