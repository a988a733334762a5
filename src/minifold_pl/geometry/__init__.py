"""Units, frames, measures and superpositions of protein chains."""
