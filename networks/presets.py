"""Sizes and kinds of the networks that options choose among; read without torch."""

DEFAULT_HIDDEN_DIMS = (64, 128, 256, 512)               # of the UNet: channels per level
PARAMETRIZATIONS = ("eps", "v", "residual")             # what it puts out
CONDITIONINGS = ("none", "concat", "cross_attention")   # how it learns of a class

# The two networks of a flow, and sizes of the UNet.
NETWORKS = ("dit", "unet")
UNET_MULTIPLIERS = (1, 2)       # channels of its levels, over --hidden_size
UNET_SIZES = dict(hidden_size=48, depth=1, patch_size=2)

# Sizes of the UNet of small images. fast: a model that draws digits after a few minutes on a CPU; latent: for latents
# of 4x4.
CONDITIONAL_UNETS = {
    "documented": {"base_channels": 32, "channel_multipliers": [1, 2, 3, 3], "layers_per_block": 1,
                   "attention_levels": [3], "patch_size": 1},
    "fast": {"base_channels": 48, "channel_multipliers": [1, 2], "layers_per_block": 1, "attention_levels": [1],
             "patch_size": 2},
    "latent": {"base_channels": 64, "channel_multipliers": [1, 2], "layers_per_block": 1, "attention_levels": [0, 1],
               "patch_size": 1},
}

# The Diffusion Transformer.
OUTPUTS = ("velocity", "clean", "residual")
TIME_SCALE = 10_000.0           # flow time 0...1 becomes angles up to 10^4; published weights want 1
PRESETS = {
    "debug": dict(hidden_size=64, depth=2, num_heads=2, patch_size=8, mlp_ratio=1),
    "small": dict(hidden_size=384, depth=12, num_heads=6, patch_size=2, mlp_ratio=4),
    "big": dict(hidden_size=768, depth=12, num_heads=12, patch_size=2, mlp_ratio=4),
    "semilarge": dict(hidden_size=1024, depth=22, num_heads=16, patch_size=2, mlp_ratio=4),
    "large": dict(hidden_size=1024, depth=24, num_heads=16, patch_size=2, mlp_ratio=4),
    "xlarge": dict(hidden_size=1152, depth=28, num_heads=16, patch_size=2, mlp_ratio=4),
}
