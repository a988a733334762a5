"""The diffusion process: schedule, noise, guidance and samplers, for any callable denoiser."""
