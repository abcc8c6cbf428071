"""From what people said to a dataset that can be trained on."""
