"""What is said and shown of a trained model."""
