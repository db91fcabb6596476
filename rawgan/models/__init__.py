"""Network architectures, and the recipes that train them."""
