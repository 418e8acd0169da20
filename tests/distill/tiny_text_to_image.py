"""Tiny random text-to-image models in diffusers' layout, made from its config classes; prompts and captioned images."""
import string

import numpy as np
import pytest
import torch
from PIL import Image

PROMPTS = ["a red house", "two cats on a mat", "the sea", "a long road with many small trees beside it"]
LETTERS = string.ascii_lowercase
WORDS = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "!"]
NUM_TOKENS, WIDTH, BETAS = 16, 8, {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_tokenizer(pad: str):
    from transformers import CLIPTokenizer
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, merges=[], pad_token=pad,
                         model_max_length=NUM_TOKENS)


def tiny_text_encoder(kind):
    from transformers import CLIPTextConfig
    return kind(CLIPTextConfig(vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=3,
                               num_attention_heads=2, max_position_embeddings=NUM_TOKENS, projection_dim=WIDTH,
                               bos_token_id=0, eos_token_id=1, pad_token_id=1))


def save_tiny_model(folder, is_sdxl: bool = False, prediction: str = "epsilon", seed: int = 0):
    """A Stable Diffusion or SDXL with a UNet of some ten thousand weights on 8x8 latents of 16x16 images."""
    import diffusers
    import transformers
    torch.manual_seed(seed)
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + WIDTH} if is_sdxl else {}
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=4,
        cross_attention_dim=WIDTH * (1 + is_sdxl), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **more)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=16,
        scaling_factor=0.18215)
    parts = {"unet": unet, "vae": vae, "tokenizer": tiny_tokenizer("<|endoftext|>"),
             "text_encoder": tiny_text_encoder(transformers.CLIPTextModel),
             "scheduler": diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                                  prediction_type=prediction)}
    if is_sdxl:
        diffusers.StableDiffusionXLPipeline(
            **parts, tokenizer_2=tiny_tokenizer("!"), add_watermarker=False,
            text_encoder_2=tiny_text_encoder(transformers.CLIPTextModelWithProjection)).save_pretrained(folder)
    else:
        diffusers.StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None,
                                          requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def large():
    """Skips what needs diffusers, transformers and peft, where they are not installed."""
    for package in ("diffusers", "transformers", "peft"):
        pytest.importorskip(package, reason=f"{package} is not installed; it is in the extra `large`")


@pytest.fixture(scope="session")
def tiny_models(large, tmp_path_factory):
    """Folders: sd (noise prediction), v (velocity-like prediction of Stable Diffusion 2), sdxl, tiny_vae."""
    import diffusers
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "sd")
    save_tiny_model(folder / "v", prediction="v_prediction", seed=1)
    save_tiny_model(folder / "sdxl", is_sdxl=True, seed=2)
    diffusers.AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), latent_channels=4,
                              num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(folder / "tiny_vae")
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder with prompts.txt and six images with captions."""
    folder, random = tmp_path_factory.mktemp("texts"), np.random.RandomState(0)
    (folder / "prompts.txt").write_text("\n".join([*PROMPTS, ""]) + "\n")
    (folder / "images").mkdir()
    for number in range(6):
        Image.fromarray(random.randint(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "images" / f"{number}.png")
        (folder / "images" / f"{number}.txt").write_text(f"picture number {string.ascii_lowercase[number]}")
    return folder


@pytest.fixture(scope="session")
def tiny_clip(large, tmp_path_factory):
    """A folder with a random CLIP model of transformers."""
    import transformers
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    common = dict(hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    text = dict(vocab_size=len(WORDS), max_position_embeddings=NUM_TOKENS, eos_token_id=1, pad_token_id=1, **common)
    vision = dict(image_size=16, patch_size=8, **common)
    transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)) \
        .save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    tiny_tokenizer("<|endoftext|>").save_pretrained(folder)
    return folder
