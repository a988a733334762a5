"""Networks: sequence encoder, pair stack, invariant point attention denoiser and heads."""
