"""Code that travels inside exported folders and runs without this package."""
