"""checkpoint + report -> release."""
