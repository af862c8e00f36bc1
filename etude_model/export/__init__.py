"""checkpoint -> files that other programs load: Hugging Face transformers and PEFT."""
