"""The demo's text to image: a model in diffusers' layout, a student of it, the tiny autoencoder, what is refused."""
import pytest
import torch

from demo import found
from demo.generation import TextControls, draw, open_checkpoint
from distill.student import few_steps_of
from distill.text_to_image import TextSampler, TextToImage, TinyDecoder
from engine.errors import InputError
from engine.files import save_torch
from engine.sampling import to_uint8
from tiny_text_to_image import large, tiny_models                          # noqa: F401

PROMPT = "a red house"


@pytest.fixture(scope="module")
def models(tiny_models, tmp_path_factory):                                 # noqa: F811
    """The folder of a tiny Stable Diffusion, opened, and a student of it whose first step is told 399."""
    model = TextToImage(tiny_models / "sd")
    state = {name: value + 0.01 for name, value in model.network.state_dict().items()}
    folder = tmp_path_factory.mktemp("students")
    save_torch(folder / "student_1ep.pth", {
        **model.content(), "few_steps": few_steps_of([[999], [499]], [[399], [499]], "free"), "epochs": 1,
        "model_state": state, "ema_state": {"shadow": state, "decay": 0.9}})
    each, passed_over = found.find_checkpoints([tiny_models / "sd", folder])
    assert passed_over == [] and {one.family for one in each} == {"text_to_image"}
    return {one.path.stem: open_checkpoint(one, "ema", "cpu") for one in each}


def test_a_model_in_diffusers_layout_draws(models):
    steps = []
    [walk] = draw(models["sd"], TextControls(f"  {PROMPT}\n", 3, None, 2.0, None, 2, 5),
                  lambda *step: steps.append(step)).walks
    assert walk.num_model_calls == 6 and steps[-1] == (3, 3) and walk.label == f"sd: {PROMPT}"
    expected = TextSampler(models["sd"].model, None, 3, 2.0).images([PROMPT] * 2, 5, range(2))
    assert (walk.images["16×16"].int() - expected.int()).abs().max() <= 1       # decoded one by one, and together
    assert walk.strip["16×16"].shape == (4, 3, 16, 16)


def test_a_student_is_told_the_conditioning_timestep(models):
    student = models["student_1ep"]

    def images(**more):
        return draw(student, TextControls(PROMPT, 2, seed=5, **more)).walks[0].images["16×16"]
    own = TextSampler(student.model, student.few_steps).images([PROMPT], 5, [0])
    assert torch.equal(images(conditioning_timestep=399), own)
    assert not torch.equal(images(), own)                                       # told 999
    [walk] = draw(student, TextControls(PROMPT, 4, 399)).walks
    assert walk.num_model_calls == 4 and walk.captions == ["999", "749", "499", "249", "image"]


def test_the_tiny_autoencoder_decodes(models, tiny_models):                 # noqa: F811
    name = str(tiny_models / "tiny_vae")
    [walk] = draw(models["sd"], TextControls(PROMPT, 2, None, 1, name, 1, 5)).walks
    sampler = TextSampler(models["sd"].model, None, 2)
    latents = sampler.latents([PROMPT], 5, [0]).xs[0]
    assert torch.equal(walk.images["16×16"], to_uint8(TinyDecoder(name, "cpu").decode(latents)))


@pytest.mark.parametrize("name, controls, message", [
    ("sd", TextControls(" "), "prompt: found nothing, expected a text"),
    ("sd", TextControls(PROMPT, 0), "steps: found '0'"),
    ("sd", TextControls(PROMPT, conditioning_timestep=399), "conditioning timestep: found 399, but sd is no student"),
    ("student_1ep", TextControls(PROMPT, conditioning_timestep=1000), "conditioning timestep: found '1000'")])
def test_bad_input_is_one_line(models, name, controls, message):
    with pytest.raises(InputError, match=message):
        draw(models[name], controls, lambda *_: pytest.fail("work had begun"))
