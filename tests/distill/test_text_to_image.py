"""Text-to-image teachers against diffusers' own pipelines; memory; what is told of models and texts that are wrong."""
import json
import shutil

import pytest
import torch

from conftest import ROOT
from engine.denoiser import Guided
from engine.errors import InputError
from engine.seeds import seeded_generator
from tiny_text_to_image import large, texts, tiny_models                  # noqa: F401

PROMPTS = ["a red house", "two cats on a mat", "the sea"]


@pytest.fixture(scope="module")
def model_of(tiny_models):
    from distill.text_to_image import TextToImage
    made = {}

    def load(name):
        if name not in made:
            made[name] = TextToImage(tiny_models / name)
        return made[name]
    return load


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@torch.no_grad()
def test_texts_are_what_the_pipeline_makes_of_them(model_of, tiny_models, name):
    import diffusers
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny_models / name)
    model = model_of(name)
    found = model.texts.rows(PROMPTS)
    expected, null, *pooled = pipeline.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1,
                                                     do_classifier_free_guidance=True)
    parts = [expected.flatten(1), *pooled[:1]]
    assert found.shape[1] == sum(part.shape[1] for part in parts)
    assert torch.allclose(found, torch.cat(parts, 1), atol=1e-6)
    unconditional = torch.cat([null.flatten(1), *pooled[1:]], 1)[:1]
    assert torch.allclose(model.denoiser(3).null_labels(1, "cpu"), unconditional, atol=1e-6)
    assert (name == "sdxl") == bool((unconditional == 0).all())


def test_the_second_tokenizer_of_sdxl_pads_differently(model_of):
    first, second = model_of("sdxl").texts.tokens(["a"])
    assert (first != second).any() and torch.equal(first[:, :3], second[:, :3])


@pytest.mark.parametrize("name", ["sd", "v", "sdxl"])
@torch.no_grad()
def test_a_guided_clean_image_is_the_one_a_pipeline_step_implies(model_of, tiny_models, name):
    """The pipeline's step with guidance 4: the clean image that its scheduler reports is ours, to 1e-5."""
    import diffusers
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny_models / name)
    pipeline.set_progress_bar_config(disable=True)
    model, latents, seen = model_of(name), torch.randn(3, 4, 8, 8, generator=seeded_generator(0)), []
    step = pipeline.scheduler.step

    def noted(output, t, sample, **more):
        found = step(output, t, sample, **more)
        seen.append((int(t), sample, step(output, t, sample, return_dict=True).pred_original_sample))
        return found

    pipeline.scheduler.step = noted
    pipeline(PROMPTS, num_inference_steps=4, guidance_scale=4.0, latents=latents, output_type="latent",
             **{"height": 16, "width": 16})
    assert len(seen) == 4 and seen[0][0] > 700
    guided = Guided(model.denoiser(3), 4.0)
    for t, x, expected in seen:
        [found] = guided.clean([x], [torch.full((3,), t)], model.texts.rows(PROMPTS))
        scale = expected.abs().max()
        assert (found - expected).abs().max() < 1e-5 * scale, (t, float(scale))


@torch.no_grad()
def test_both_autoencoders_decode_as_the_pipeline_does(model_of, tiny_models):
    import diffusers
    from distill.text_to_image import TextToImage
    x = torch.randn(2, 4, 8, 8, generator=seeded_generator(1))
    vae = diffusers.AutoencoderKL.from_pretrained(tiny_models / "sd" / "vae")
    assert torch.allclose(model_of("sd").decode(x), vae.decode(x / 0.18215).sample, atol=1e-5)
    tiny = diffusers.AutoencoderTiny.from_pretrained(tiny_models / "tiny_vae")
    found = TextToImage(tiny_models / "sd", tiny_vae=str(tiny_models / "tiny_vae")).decode(x)
    assert torch.allclose(found, tiny.decode(x).sample, atol=1e-6) and found.shape == (2, 3, 16, 16)


def test_a_teacher_in_bfloat16_equals_a_float32_critic_under_autocast(tiny_models):
    """Bit for bit, so that equal weights give no gradient of distribution matching."""
    from distill.text_to_image import TextToImage
    full, half = (TextToImage(tiny_models / "sd", half=is_half).network for is_half in (False, True))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([20, 700])
    rows = torch.randn(2, 16 * 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(full(x, t, rows), half(x, t, rows))
    sizes = [(p.numel(), p.element_size()) for p in half.parameters()]
    assert 2 <= sum(count * size for count, size in sizes) / sum(count for count, _ in sizes) < 2.2


def test_an_adapter_adds_nothing_at_first_and_is_merged_exactly(tiny_models):
    from distill import lora
    from distill.text_to_image import TextToImage
    network, other = (TextToImage(tiny_models / "sdxl").network for _ in range(2))
    x, t, rows = torch.randn(2, 4, 8, 8), torch.tensor([20, 700]), torch.randn(2, 16 * 16 + 8)
    plain = network(x, t, rows)
    lora.add_adapter_layers(network.unet, 4, 8.0)
    network.requires_grad_(False)
    one, two = lora.AdaptedNetwork(network), lora.AdaptedNetwork(network)
    assert torch.equal(one(x, t, rows), plain)
    assert all(".lora_" in name.replace("/", ".") for name, _ in one.named_parameters())
    with torch.no_grad():
        for p in one.parameters():
            p += 0.1 * torch.randn_like(p)
    moved = one(x, t, rows)
    assert (moved - plain).abs().max() > 1e-3 and torch.equal(two(x, t, rows), plain)
    lora.merge_adapter(other, one.state_dict(), 4, 8.0)
    assert torch.allclose(other(x, t, rows), moved, atol=1e-5)
    assert not any("lora" in name for name, _ in other.named_parameters())
    moved.sum().backward()
    assert all(p.grad is not None for p in one.parameters()) and all(p.grad is None for p in network.parameters())


# --- memory -----------------------------------------------------------------------------------------------------------

def test_bytes_of_the_published_models():
    """SDXL's UNet has 2,567,463,684 parameters and takes 87 GB, Stable Diffusion's 859,520,964 and 29 GB."""
    from distill.memory import adapted_parts, frozen_parts, parts_at_start, trained_parts
    for num_unet, expected in ((2_567_463_684, 87), (859_520_964, 29)):
        parts = [*trained_parts(num_unet, 0, num_processes=1, fsdp=False, average=False),
                 *frozen_parts("teacher", num_unet, True)]
        assert round(sum(part.bytes for part in parts) / 1e9) == expected
    parts = trained_parts(1000, 10, num_processes=4, fsdp=True, average=True)
    assert [part.bytes for part in parts] == [1000 * 20 / 4, 1010 * 16 / 4]
    parts = trained_parts(1000, 10, num_processes=4, fsdp=False, average=True)
    assert [part.bytes for part in parts] == [1000 * 24, 1010 * 20]
    for half, expected in ((True, [993 * 2 / 4, 7 * 4 / 4]), (False, [1000 * 4 / 4])):
        assert [part.bytes for part in frozen_parts("teacher", 1000, half, 7, 4)] == expected
    shapes = {"conv_in.weight": [8, 3, 1, 1], "down_blocks.0.resnets.1.conv1.weight": [8, 8, 1, 1],
              "down_blocks.0.resnets.1.norm1.weight": [8], "mid_block.attentions.0.transformer_blocks.0.x.bias": [4]}
    assert [part.bytes for part in adapted_parts(shapes, 100, True, 4)] == [
        64 * 2 / 4, 12 * 4 / 4, 24 * 2, 100 * 2, 100 * 4 / 4]
    assert [part.bytes for part in parts_at_start(1000, 10)] == [4000, 4040, 4000]
    assert [part.bytes for part in parts_at_start(1000, 10, 100)] == [400, 440, 4000, 800]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_parameters_are_counted_from_headers_alone(tiny_models, model_of, name):
    from distill import lora, memory
    from distill.task import critic_of
    from distill.text_to_image import TextToImage
    model, unet = model_of(name), tiny_models / name / "unet"
    count = sum(p.numel() for p in model.network.parameters())
    assert memory.num_of(memory.shapes_of(unet)) == count
    halved = TextToImage(tiny_models / name, half=True)
    networks = [unet, *(tiny_models / name / f"text_encoder{end}" for end in ("", "_2")[:len(halved.texts.pairs)])]
    for folder, network in zip(networks, [halved.network, *(encoder for _, encoder in halved.texts.pairs)]):
        kept = sum(p.numel() for p in network.parameters() if p.dtype == torch.float32)
        assert memory.num_kept_full(memory.shapes_of(folder)) == kept > 0
    critic = critic_of(model.network, 8, 1, head=True)
    config = json.loads((unet / "config.json").read_text())
    assert memory.num_head_parameters(config, 8) == sum(p.numel() for p in critic.parameters()) - count
    network = TextToImage(tiny_models / name).network
    lora.add_adapter_layers(network.unet, 4, 8.0)
    assert memory.num_adapter_parameters(memory.shapes_of(unet), 4) == sum(
        p.numel() for p in lora.adapter_of(network).values())


# The published models: parameters of UNet, text encoders and autoencoder, channels of the middle, side of latents, and
# tables of the text encoders.
PUBLISHED = {"Stable Diffusion 1.5": (859_520_964, 123_060_480, 83_653_863, 1280, 64, (49_408 + 77) * 768),
             "SDXL": (2_567_463_684, 817_720_320, 83_653_863, 1280, 128, (49_408 + 77) * (768 + 1280))}


def test_the_readmes_table_of_memory_is_what_memory_says():
    """But for the norms, which are a thousandth of a network."""
    from distill import memory

    def size(parts) -> str:
        return f"{sum(part.bytes for part in parts) / 1e9:.1f}"

    rows = {row[0]: row[1:] for line in (ROOT / "distill" / "README.md").read_text().splitlines()
            if len(row := [cell.strip() for cell in line.strip("| ").split("|")]) == 5 and row[0] in PUBLISHED}
    assert rows.keys() == PUBLISHED.keys()
    for name, (unet, encoders, vae, channels, side, tables) in PUBLISHED.items():
        levels = {"Stable Diffusion 1.5": 4, "SDXL": 3}[name]
        head = memory.num_head_parameters({"block_out_channels": [0] * (levels - 1) + [channels]}, side)
        alone = [*memory.trained_parts(unet, 0, num_processes=1, fsdp=False, average=False),
                 *memory.frozen_parts("teacher", unet, True)]
        spread = [*memory.trained_parts(unet, head, num_processes=64, fsdp=True, average=True),
                  *memory.frozen_parts("teacher", unet, True, num_shards=64),
                  *memory.frozen_parts("text encoders", encoders, True, tables, 64), memory.Part("autoencoder", vae, 4)]
        start = [*memory.parts_at_start(unet, head), memory.Part("text encoders", encoders, 4), spread[-1]]
        found = [f"{unet:,}", size(alone), size(spread), size(start)]
        assert list(rows[name]) == found


def test_what_does_not_fit_is_refused_with_its_size(monkeypatch):
    from distill import memory
    moments = {"in training": [memory.Part("student", 10**9, 20, 4), memory.Part("teacher", 10**9, 2)],
               "at the start": [memory.Part("student", 10**9, 4)]}
    monkeypatch.setattr(memory, "device_bytes", lambda device: int(7e9))
    memory.check_fits(moments, torch.device("cpu"))
    monkeypatch.setattr(memory, "device_bytes", lambda device: int(6.9e9))
    memory.check_fits(moments, torch.device("cpu"), is_main=False)          # the main process has spoken for all
    with pytest.raises(InputError, match=r"holds 7.0 GB in training.*has 6.9 GB free; add processes") as error:
        memory.check_fits(moments, torch.device("cpu"))
    assert "\n" not in str(error.value)
    moments["at the start"] += [memory.Part("critic", 10**9, 4)]
    with pytest.raises(InputError, match=r"holds 8.0 GB at the start.*networks are whole before they are spread"):
        memory.check_fits(moments, torch.device("cpu"))


def test_free_memory_is_asked_for_and_not_all_there_is(monkeypatch):
    from distill import memory
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 80))
    assert memory.device_bytes(torch.device("cuda:0")) == 5
    monkeypatch.setattr(memory.Path, "read_text", lambda path, encoding: "MemTotal: 90 kB\nMemAvailable:   12 kB\n")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert memory.device_bytes(torch.device("cpu")) == 12 * 1024 // 3


# --- what is wrong ----------------------------------------------------------------------------------------------------

def spoil(folder, what):
    """Make a copy of a model's folder bad in one way."""
    if what == "pickled":
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
    elif what == "no_scheduler":
        shutil.rmtree(folder / "scheduler")
    elif what == "damaged":
        (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"12345678")
    elif what == "prediction":
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "flow"}))
    elif what == "no_tokenizer":
        (folder / "tokenizer" / "tokenizer_config.json").unlink()
    elif what == "not_a_model":
        (folder / "model_index.json").unlink()


@pytest.mark.parametrize("what, message", [
    ("pickled", "pickled weights"), ("no_scheduler", "scheduler_config.json: no such file"),
    ("damaged", "cannot be opened as UNet2DConditionModel"), ("prediction", "found prediction 'flow'"),
    ("no_tokenizer", "tokenizer"), ("not_a_model", "model_index.json")])
def test_bad_models_are_one_line(tiny_models, tmp_path, what, message):
    from distill.text_to_image import TextToImage
    shutil.copytree(tiny_models / "sd", tmp_path / "model")
    spoil(tmp_path / "model", what)
    with pytest.raises(InputError, match=message) as error:
        TextToImage(tmp_path / "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options, message", [
    ({"name": "./missing"}, "no such folder"), ({"must_be_sdxl": True}, "has one text encoder"),
    ({"resolution": 15}, "multiple of 2"), ({"tiny_vae": "./none"}, "--tiny_vae")])
def test_bad_choices_are_one_line(tiny_models, options, message):
    from distill.text_to_image import TextToImage
    with pytest.raises(InputError, match=message):
        TextToImage(**{"name": tiny_models / "sd", **options})


def test_prompts_and_captions(tmp_path, texts, capsys):
    import pyarrow
    import pyarrow.parquet
    from distill.texts import captions_of, read_prompts
    assert read_prompts(texts / "prompts.txt")[:2] == ["a red house", "two cats on a mat"]
    assert "1 of 5 prompts are empty" in capsys.readouterr().out
    pyarrow.parquet.write_table(pyarrow.table({"TEXT": ["one", None, "two"], "n": [1, 2, 3]}), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == ["one", "two"]
    for column, message in (("n", "holds 1, expected texts"), ("other", "has the columns TEXT, n, expected other")):
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / "p.parquet", column)
    for name, message in (("p.pkl", "never opened"), ("none.txt", "no such file"), ("empty.txt", "holds no prompt")):
        if not name.startswith("none"):
            (tmp_path / name).write_text("\n")
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / name)
    captions = captions_of(str(texts / "images"), "train")
    assert captions == [f"picture number {c}" for c in "abcdef"]
    assert captions_of(str(texts / "images"), "train[2:4]") == captions[2:4]
    with pytest.raises(InputError, match="no split 'test'"):
        captions_of(str(texts / "images"), "test")
    shutil.copytree(texts / "images", tmp_path / "images")
    (tmp_path / "images" / "3.txt").unlink()
    with pytest.raises(InputError, match="1 of 6 images .* have no caption, first .*3.png"):
        captions_of(str(tmp_path / "images"), "train")
    (tmp_path / "images" / "metadata.jsonl").write_text("".join(
        json.dumps({"file_name": f"{n}.png", "text": f"told {n}"}) + "\n" for n in range(6)))
    assert captions_of(str(tmp_path / "images"), "train") == [f"told {n}" for n in range(6)]


def test_a_name_on_the_hub_is_fetched_without_pickles(tiny_models, monkeypatch):
    import fnmatch
    import huggingface_hub
    from distill.text_to_image import TextToImage, local_folder
    asked = []

    def snapshot_download(name, **how):
        asked.append((name, how))
        return str(tiny_models / "sd")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert TextToImage("someone/model").folder == tiny_models / "sd"
    [(name, how)] = asked
    assert name == "someone/model" and not how["local_files_only"]

    def is_fetched(file):
        return any(fnmatch.fnmatch(file, pattern) for pattern in how["allow_patterns"]) and not any(
            fnmatch.fnmatch(file, pattern) for pattern in how["ignore_patterns"])
    names = ["model_index.json", *(path.relative_to(tiny_models / "sd").as_posix()
                                   for path in (tiny_models / "sd").rglob("*.*") if path.parent != tiny_models / "sd")]
    assert all(map(is_fetched, names)) and len(names) > 8
    assert not any(map(is_fetched, ["unet/diffusion_pytorch_model.bin", "weights.ckpt", "safety_checker/config.json",
                                    "unet/diffusion_pytorch_model.fp16.safetensors"]))

    def fails(*_, **__):
        raise OSError("no network\nhere")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(InputError, match=r"someone/model: is no folder.*\(no network here\); give a folder") as error:
        local_folder("someone/model")
    assert "\n" not in str(error.value)

