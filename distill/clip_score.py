"""CLIP score: how well images go with their texts, 100 times the cosine of CLIP's embeddings (Hessel et al. 2021)."""
import torch

from distill.options import USUAL_CLIP
from distill.text_to_image import load_part, local_folder
from engine.errors import InputError
from engine.files import expecting

PATTERNS = ["*.json", "*.txt", "*.safetensors"]


class ClipScore:
    """A CLIP model of transformers. name: a folder, or a name on the hub, whose cache alone is looked into.

    Raises InputError where it is not there.
    """

    def __init__(self, name: str = USUAL_CLIP, device="cpu"):
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
        self.name, self.device = name, device
        folder = local_folder(name, "--clip", PATTERNS, cached_only=True)
        for file in ("preprocessor_config.json", "tokenizer_config.json"):
            if not (folder / file).is_file():
                raise InputError(f"--clip: {folder}: has no {file}, expected a CLIP model of transformers")
        with expecting(folder, "CLIP model of transformers"):
            self.processor = CLIPImageProcessor.from_pretrained(str(folder))
            self.tokenizer = CLIPTokenizer.from_pretrained(str(folder))
        self.model = load_part(CLIPModel, folder).to(device)

    @torch.no_grad()
    def scores(self, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """uint8 [B, 3, H, W] and their texts -> float64 [B] on the CPU, from -100 to 100."""
        pixels = self.processor(images=list(images.cpu()), return_tensors="pt").pixel_values
        tokens = self.tokenizer(texts, padding=True, truncation=True,
                                max_length=self.model.config.text_config.max_position_embeddings, return_tensors="pt")
        found = self.model(pixel_values=pixels.to(self.device), input_ids=tokens.input_ids.to(self.device),
                           attention_mask=tokens.attention_mask.to(self.device))
        cosine = torch.nn.functional.cosine_similarity(found.image_embeds.double(), found.text_embeds.double())
        return 100 * cosine.cpu()
