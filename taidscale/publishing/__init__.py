"""What a model needs to be published on the Hugging Face Hub, and how it gets there."""
