"""The training loop with tasks of its own: several networks, labels, frozen ones, and processes with DDP and FSDP2."""
import argparse
import csv
import json
import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import train_baseline
import train_lift
from baseline_model import BaselineModel
from conftest import in_two_processes, run_in_turn
from data import ImageSet
from distill.task import critic_of
from engine import options, run_files
from engine.errors import InputError
from engine.files import load_torch, save_torch
from engine.loop import train
from engine.seeds import TRAIN_BATCH, seeded_generator
from engine.sharding import is_sharded, shard
from engine.task import Task, Update
from lift.tasks import ScaleTask
from networks.dit import DiT
from networks.flow_unet import FlowUNet

NUM_IMAGES, NUM_CLASSES, SIZE, NUM_STEPS = 48, 3, 6, 11
SCALE_TASKS, SCALE_STEPS = ("baseline", "lift"), 4              # trainings of one scale and two, and their length
ROUNDING = {"rel": 2e-6}                        # how close losses of other orders of summation are


def arguments(folder, *more):
    """The options of a short run into a folder."""
    parser = argparse.ArgumentParser()
    options.add_training_options(parser, "mine")
    parser.add_argument("--dataset", default="vectors")
    parser.add_argument("--split", default="train")
    parser.add_argument("--sample_every", default=1)
    return parser.parse_args([
        "--batch_size", "8", "--max_steps", str(NUM_STEPS), "--device", "cpu", "--precision", "float32",
        "--num_threads", "1", "--log_every", "1", "--val_every", "1", "--no_tensorboard",
        "--learning_rate", "1e-2", "--ema_decay", "0.5",
        "--checkpoint_dir", str(folder / "checkpoints"), "--output_dir", str(folder / "results"), *map(str, more)])


class VectorTask(Task):
    """Images are vectors of six numbers with a label each; a step's batch has them, their labels and noise."""

    num_images, content_hash = NUM_IMAGES, "vectors"

    def __init__(self, args, stop_after=None):
        super().__init__(args)
        self.stop_after = stop_after
        generator = torch.Generator().manual_seed(7)
        self.images = torch.randn(NUM_IMAGES, SIZE, generator=generator)
        self.labels = torch.randint(NUM_CLASSES, (NUM_IMAGES,), generator=generator)
        torch.manual_seed(args.seed)

    def batch(self, step, part):
        if step + 1 == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        generator = seeded_generator(self.args.seed, TRAIN_BATCH, step)
        which = torch.randperm(NUM_IMAGES, generator=generator)[:self.args.batch_size][part]
        noise = torch.randn(self.args.batch_size, SIZE, generator=generator)[part]
        return SimpleNamespace(images=self.images[which], labels=self.labels[which], noise=noise, made=None)

    def content(self):
        return {"family": "vectors"}


def small_network():
    return nn.Sequential(nn.Linear(SIZE, 10), nn.SiLU(), nn.Linear(10, 10), nn.SiLU(), nn.Linear(10, SIZE))


class AlternatingTask(VectorTask):
    """A generator every third step and a critic always, which takes the images that the generator left in the batch."""

    averaged = ("generator", "critic")
    columns = ("generator.loss", "generator.distance", "critic.loss")
    has_validation = True

    def __init__(self, args, stop_after=None, teacher_seed=0):
        super().__init__(args, stop_after)
        self.networks = {"generator": small_network(), "critic": small_network()}
        torch.manual_seed(teacher_seed)
        self.frozen = {"teacher": small_network().requires_grad_(False)}
        self.frozen_hashes = {"teacher": f"hash of seed {teacher_seed}"}
        self.num_reused = 0

    def updates(self, step):
        critic = Update("critic", self.critic_loss)
        return [Update("generator", self.generator_loss), critic] if step % 3 == 0 else [critic]

    def generator_loss(self, networks, batch):
        made = networks["generator"](batch.noise)
        batch.made = made.detach()
        distance = (networks["critic"](made) - self.frozen["teacher"](made)).square().mean()
        return {"loss": distance + made.square().mean(), "distance": distance}

    def critic_loss(self, networks, batch):
        self.num_reused += batch.made is not None
        if batch.made is None:
            with torch.no_grad():
                batch.made = networks["generator"](batch.noise)
        return {"loss": (networks["critic"](batch.made) - batch.images).square().mean()}

    @torch.no_grad()
    def validate(self, networks):
        made = networks["generator"](self.images)
        return {"size": made.square().mean().item(), "error": (networks["critic"](made) - made).square().mean().item()}

    def pictures(self, networks, step, epoch):
        path = self.args.output_dir / f"preview_{step}.pt"
        assert not path.exists()
        with torch.inference_mode():            # as samplers are
            return {path: Picture(networks["generator"](self.images[:2]))}


class Picture:
    """A tensor that the loop writes as it writes a picture: one process, once."""

    def __init__(self, tensor):
        self.tensor = tensor

    def save(self, file, format):
        torch.save(self.tensor.clone(), file)


def run(folder, *more, stop_after=None, **task_options):
    """Train the alternating task in this process: its task, or None where the run was stopped."""
    made = []

    def make_task(args, device, group):
        made.append(AlternatingTask(args, stop_after, **task_options))
        return made[-1]
    if stop_after is None:
        train(make_task, arguments(folder, *more))
        return made[0]
    with pytest.raises(SystemExit) as stop:
        train(make_task, arguments(folder, *more))
    assert stop.value.code == 128 + signal.SIGTERM


def random_stop(num_steps: int) -> tuple[int, str]:
    """The step that a run of so many is stopped in, and what a failure says of it. STOP_SEED=... draws one again."""
    seed = int(os.environ.get("STOP_SEED") or random.SystemRandom().randrange(10**6))
    step = random.Random(seed).randrange(1, num_steps)
    return step, f"stopped in step {step} of {num_steps} (STOP_SEED={seed} draws it again):"


def run_quietly(folder, stop_after, *more):
    """What one of two processes does; how many of the teacher's parameters it holds at the end of a whole run."""
    task = run(folder, *more, stop_after=stop_after)
    return task and sum(getattr(p, "_local_tensor", p).numel() for p in task.frozen["teacher"].parameters())


def last_state(folder):
    """What the newest state says of networks, averages and optimizers."""
    path = run_files.list_states(folder / "checkpoints", "mine")[-1]
    state = load_torch(path)
    assert state["step"] == NUM_STEPS
    return {key: state[key] for key in ("model_state", "ema_state", "optimizer_state", "others", "num_updates",
                                        "losses")}


def losses_of(folder):
    """The log's losses and norms, row after row; what a step lacks is left out."""
    with open(folder / "results/mine_training.csv") as file:
        return [float(row[column]) for row in csv.DictReader(file) for column in AlternatingTask.columns if row[column]]


def assert_close_looks(folder, other):
    """Validations of raw and averaged weights, and previews, agree up to rounding."""
    found, wanted = (json.loads((path / "results/mine_validation_bins.json").read_text()) for path in (folder, other))
    assert [(row["step"], row["weights"]) for row in found] == [(step, weights) for step in (6, NUM_STEPS)
                                                                for weights in ("raw", "ema")]
    for a, b in zip(found, wanted, strict=True):
        assert (a["size"], a["error"]) == (pytest.approx(b["size"], rel=1e-5), pytest.approx(b["error"], rel=1e-5))
    assert found[-1]["error"] != found[-2]["error"]
    for step in (6, NUM_STEPS):
        images, others = (load_torch(path / f"results/preview_{step}.pt") for path in (folder, other))
        torch.testing.assert_close(images, others, atol=1e-5, rtol=1e-5)


def assert_same(a, b, where=""):
    """Equal to the last bit, however nested."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where} {key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where} {k}")
    else:
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b, where


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run in one process from the first step to the last."""
    folder = tmp_path_factory.mktemp("straight")
    task = run(folder)
    assert task.num_reused == 4                 # of steps 0, 3, 6, 9
    return folder


# --- one process ---

def test_two_networks_stopped_at_a_random_step_and_resumed_equal_straight(straight, tmp_path):
    stop_after, about = random_stop(NUM_STEPS)
    run(tmp_path, stop_after=stop_after)
    run(tmp_path, "--resume")
    state = last_state(tmp_path)
    assert_same(state, last_state(straight), about)
    assert state["num_updates"] == {"generator": 4, "critic": NUM_STEPS}
    assert losses_of(tmp_path) == losses_of(straight) and len(losses_of(straight)) == 4 * 2 + NUM_STEPS
    for weights in (state, state["others"]["critic"]):
        assert set(weights["optimizer_state"]["state"]) == set(range(6))
        assert any(not torch.equal(weights["model_state"][name], average)
                   for name, average in weights["ema_state"]["shadow"].items())


def test_a_resumed_run_refuses_another_frozen_network(straight, tmp_path):
    run(tmp_path, stop_after=3)
    with pytest.raises(InputError, match=r"\.state\.pth: was trained with another teacher than the one given"):
        run(tmp_path, "--resume", teacher_seed=1)
    run(tmp_path, "--resume")                   # the refusal left the state as it was
    assert_same(last_state(tmp_path), last_state(straight))


def test_a_step_moves_the_named_network_alone(tmp_path):
    """Against the same steps written out: the critic's loss leaves the generator alone, and the other way round."""
    task = run(tmp_path, "--max_steps", 3, "--lr_schedule", "constant")
    expected = AlternatingTask(task.args)
    rates = {"lr": 1e-2, "weight_decay": 0.01}
    optimizers = {name: torch.optim.AdamW(network.parameters(), **rates) for name, network in expected.networks.items()}
    for step in range(3):
        batch = expected.batch(step, slice(0, 8))
        for update in expected.updates(step):
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            update.loss(expected.networks, batch)["loss"].backward()
            parameters = expected.networks[update.trains].parameters()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizers[update.trains].step()
    for name in expected.networks:
        for found, wanted in zip(task.networks[name].parameters(), expected.networks[name].parameters()):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_accumulated_parts_equal_the_whole_batch(straight, tmp_path):
    task = run(tmp_path, "--grad_accum", 4)
    assert losses_of(tmp_path) == pytest.approx(losses_of(straight), **ROUNDING)
    assert task.num_reused == 4 * 4             # each part finds the images of its own


class LabelTask(VectorTask):
    """A number per class, moved by plain gradient steps towards the mean of the class's images."""

    averaged = ()

    def __init__(self, args):
        super().__init__(args)
        self.networks = {"model": nn.Embedding(NUM_CLASSES, 1)}

    def optimizer(self, name, parameters):
        return torch.optim.SGD(parameters, lr=self.args.learning_rate)

    def updates(self, step):
        return [Update("model", self.losses)]

    def losses(self, networks, batch):
        return {"loss": (networks["model"](batch.labels)[:, 0] - batch.images.mean(1)).square().mean()}


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_labels_in_a_batch_belong_to_its_images(tmp_path, grad_accum):
    made = []
    args = arguments(tmp_path, "--learning_rate", 0.3, "--lr_schedule", "constant", "--grad_accum", grad_accum)
    args.max_grad_norm = float("inf")
    train(lambda *given: made.append(LabelTask(given[0])) or made[0], args)
    task = LabelTask(args)
    numbers = task.networks["model"].weight.detach().double()[:, 0]
    for step in range(NUM_STEPS):
        batch = task.batch(step, slice(0, 8))
        means = batch.images.double().mean(1)
        for label in range(NUM_CLASSES):                # d/dn of the mean of (n - m)^2
            own = means[batch.labels == label]
            numbers[label] -= 0.3 * 2 / 8 * (numbers[label] - own).sum()
    torch.testing.assert_close(made[0].networks["model"].weight[:, 0].double(), numbers, atol=1e-6, rtol=1e-6)
    content = load_torch(run_files.list_checkpoints(tmp_path / "checkpoints", "mine")[-1])
    assert "ema_state" not in content and content["family"] == "vectors"


def test_a_run_goes_on_with_its_own_labels_alone(tmp_path, capsys):
    """A state of an earlier version says nothing of labels: it goes on, and says so in a line."""
    def go(hash_of_labels, steps, *more):
        args = arguments(tmp_path, "--max_steps", steps, "--lr_schedule", "constant", *more)
        task = LabelTask(args)
        task.labels_hash = hash_of_labels
        train(lambda *_: task, args)

    go("one", 2)
    with pytest.raises(InputError, match="the labels of the images in vectors are not those .*was trained on") as error:
        go("another", 3, "--resume")
    assert "\n" not in str(error.value)
    go("one", 3, "--resume")
    assert "hash of labels" not in capsys.readouterr().out
    path = run_files.list_states(tmp_path / "checkpoints", "mine")[-1]
    state = load_torch(path)
    assert state.pop("labels_hash") == "one"
    save_torch(path, state)
    go("another", 4, "--resume")
    assert capsys.readouterr().out.count("of an earlier version, which kept no hash of labels") == 1


@pytest.mark.parametrize("there, more, message", [
    ("checkpoint", (), "exists already; add --resume to continue"),
    ("checkpoint", ("--resume",), "exists, but no training state"),
    ("state", (), "exists already; add --resume to continue"),
    ("record", (), "belongs to a finished run, .* or add --overwrite$"),
    ("record", ("--resume",), "belongs to a finished run, .* or add --overwrite without --resume$"),
    ("broken", ("--resume",), "is not what a record of a training holds.* or add --overwrite without --resume")])
def test_a_run_that_is_refused_reads_no_data(tmp_path, there, more, message):
    args = arguments(tmp_path, *more)
    names = {"checkpoint": "checkpoints/mine_1ep.pth", "state": "checkpoints/mine_step00000003.state.pth"}
    path = tmp_path / names.get(there, "results/mine_run.json")
    if there in ("record", "broken"):
        record = '{"options": {"checkpoint_dir": "elsewhere"}, "is_finished": true}'
        path.parent.mkdir()
        path.write_text(record if there == "record" else "{")
    else:
        save_torch(path, {"step": 3})
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        train(lambda *_: pytest.fail("the data were read"), args)
    assert path.read_bytes() == before


# --- two processes ---

NUM_OF_TEACHER = sum(p.numel() for p in small_network().parameters())


STOPS = (4, 6)                                  # the next step begins with the critic, with the generator


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """The folders of runs in two processes, which two starts make: with copies of the networks, and with spread ones,
    the frozen one too; stopped and gone on with; and gone on with from one process to two, and the reverse."""
    of = {name: tmp_path_factory.mktemp(f"by_two_{name}")
          for name in ("copied", "spread", *STOPS, "two_then_one", "one_then_two")}
    run(of["one_then_two"], stop_after=5)
    held = in_two_processes(run_in_turn, [
        (run_quietly, of["copied"], None), (run_quietly, of["spread"], None, "--fsdp"),
        *((run_quietly, of[step], step, "--fsdp") for step in STOPS), (run_quietly, of["two_then_one"], 5, "--fsdp")])
    copied, spread, *stopped = zip(*held)
    assert copied == (NUM_OF_TEACHER,) * 2
    assert sum(spread) == NUM_OF_TEACHER and max(spread) < 0.6 * NUM_OF_TEACHER
    assert set(stopped) == {(None, None)}
    assert [run_files.list_states(of[step] / "checkpoints", "mine")[-1].name for step in STOPS] == [
        f"mine_step{step:08d}.state.pth" for step in STOPS]
    in_two_processes(run_in_turn, [(run_quietly, of[name], None, "--fsdp", "--resume")
                                   for name in (*STOPS, "one_then_two")])
    run(of["two_then_one"], "--resume")
    return of


def test_two_processes_equal_one(straight, by_two):
    assert losses_of(by_two["copied"]) == pytest.approx(losses_of(straight), **ROUNDING)
    assert_close_looks(by_two["copied"], straight)


def test_spread_networks_train_as_whole_ones(straight, by_two):
    spread = by_two["spread"]
    assert losses_of(spread) == pytest.approx(losses_of(straight), **ROUNDING)
    assert_close_looks(spread, straight)
    whole, state = last_state(straight), last_state(spread)
    for a, b in ((whole, state), (whole["others"]["critic"], state["others"]["critic"])):
        for x, y in ((a["model_state"], b["model_state"]), (a["ema_state"]["shadow"], b["ema_state"]["shadow"])):
            torch.testing.assert_close(y, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step", STOPS)
def test_spread_networks_stopped_and_resumed_equal_straight(by_two, step):
    assert_same(last_state(by_two[step]), last_state(by_two["spread"]))
    assert losses_of(by_two[step]) == losses_of(by_two["spread"])


@pytest.mark.parametrize("name", ["two_then_one", "one_then_two"])
def test_the_state_of_spread_networks_resumes_in_one_process_and_the_reverse(straight, by_two, name):
    assert losses_of(by_two[name]) == pytest.approx(losses_of(straight), **ROUNDING)


# --- four tasks, three ways ---

class StoppedScaleTask(ScaleTask):
    """S1's task, which asks to be stopped in its step number `stop_after`."""

    stop_after = None

    def batch(self, step, part):
        if step + 1 == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, part)


def scale_arguments(script, folder, *more):
    """The options of a training of one scale or two. LIFT that is spread over processes has two levels; all else has
    one, for each parameter costs."""
    hidden_dims = ("8", "16") if script is train_lift and "--fsdp" in more else ("8",)
    return script.parse_args([
        "--hidden_dims", *hidden_dims, "--batch_size", "2", "--max_steps", str(SCALE_STEPS), "--device", "cpu",
        "--precision", "float32", "--num_threads", "1", "--log_every", "1", "--no_tensorboard",
        "--learning_rate", "1e-3", "--name", "mine",
        "--checkpoint_dir", str(folder / "checkpoints"), "--output_dir", str(folder / "results"), *map(str, more)])


def run_kind(kind, folder, stop_after, *more):
    """Train a task of that kind in this process, perhaps one of two. stop_after: the step it is stopped in, or None."""
    if kind in SCALE_TASKS:
        args = scale_arguments({"baseline": train_baseline, "lift": train_lift}[kind], folder, *more)
        images = ImageSet(np.random.RandomState(0).randint(0, 256, (2 * SCALE_STEPS, 3, 64, 64), dtype=np.uint8), None,
                          "made up", "train", "hash")

        def make_task(args, device, group):
            task = StoppedScaleTask(kind, args, images, None, device)
            task.stop_after = stop_after
            return task
    else:
        args = arguments(folder, *more)

        def make_task(args, device, group):
            task = {"two networks": AlternatingTask, "labels": LabelTask}[kind](args)
            task.stop_after = stop_after
            return task
    try:
        train(make_task, args)
    except SystemExit as stop:
        assert stop_after is not None and stop.code == 128 + signal.SIGTERM


KINDS, WAYS = (*SCALE_TASKS, "two networks", "labels"), ("alone", "copied", "spread")
CHEAP = {("labels", "alone"), ("labels", "copied"), ("baseline", "spread")}


@pytest.mark.parametrize("kind, way", [
    pytest.param(kind, way, id=f"{kind}-{way}".replace(" ", "_"),
                 marks=() if (kind, way) in CHEAP else pytest.mark.slow)
    for kind in KINDS for way in WAYS])
def test_every_task_stopped_and_resumed_equals_straight_in_every_way(tmp_path, kind, way):
    """Bit for bit: in one process, in two with copies (DDP), and in two that share the weights out (FSDP2)."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    more = ("--fsdp",) if way == "spread" else ()

    def go(*runs):
        runs = [(run_kind, kind, folder, stop_after, *more, *resume) for folder, stop_after, *resume in runs]
        run_in_turn(runs) if way == "alone" else in_two_processes(run_in_turn, runs)

    stop_after, about = random_stop(SCALE_STEPS if kind in SCALE_TASKS else NUM_STEPS)
    go((straight, None), (stopped, stop_after))
    [before] = run_files.list_states(stopped / "checkpoints", "mine")
    assert load_torch(before)["step"] == stop_after, about
    go((stopped, None, "--resume"))
    ends = []
    for folder in (straight, stopped):
        state = load_torch(run_files.list_states(folder / "checkpoints", "mine")[-1])
        assert state["step"] == state["num_steps"] > stop_after, about
        ends.append({key: state.get(key) for key in ("model_state", "ema_state", "optimizer_state", "others",
                                                     "num_updates", "losses")})
        ends[-1]["log"] = [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
                           for row in state["log"]]
    assert_same(*ends, about)


def test_networks_in_channels_last_are_spread_too(tmp_path):
    """As GPUs are given them, and as checkpoints are opened; in a group of one process."""
    network = BaselineModel([8, 16]).to(memory_format=torch.channels_last).eval()
    x, t = torch.randn(2, 3, 64, 64), torch.tensor([3, 700])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        with torch.no_grad():
            expected = network(x, t)
            shard(network, torch.device("cpu"))
            assert is_sharded(network) and torch.allclose(network(x, t), expected, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


def test_a_large_network_names_the_blocks_that_are_gathered_in_turn():
    """UNets and DiT, and a critic of each. The block that its head reads stays with the root."""
    flow_unet = FlowUNet(8, channels=1, patch_size=2, hidden_size=8, depth=1, num_classes=3)
    for network, size in ((BaselineModel([8, 16]), 64), (DiT(8, 3, 2, 16, 4, 2, 1, 3), 8), (flow_unet, 8)):
        critic = critic_of(network, size, 1, head=True)
        for whole in (network, critic):
            blocks = whole.blocks_to_shard()
            inside = {id(p) for block in blocks for p in block.parameters()}
            assert len(inside) == sum(len(list(block.parameters())) for block in blocks) > 8     # none belongs to two
            assert inside < {id(p) for p in whole.parameters()}
        assert len(network.blocks_to_shard()) == len(blocks) + 1
