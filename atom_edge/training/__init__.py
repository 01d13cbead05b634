"""Training from scratch: the tokenizer, the curriculum of texts, pretraining (needs torch)."""
