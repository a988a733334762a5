"""What a run or an evaluation left in its folder, as plain values; nothing here needs a model."""
