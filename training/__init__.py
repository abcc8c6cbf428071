"""How a model is made: base model, recipe, SFT, preference tuning, registry."""
