import pytest
import torch
from builders import (
    MODELS,
    Stub,
    assert_same_training,
    some_images,
    some_labels,
    tiny_model,
    trainer,
)
from torch import nn

from pipeline.blocks import nets
from pipeline.core.contract import Group, TrainingParams
from pipeline.core.errors import PipelineError
from pipeline.training.trainer import Trainer

EVERY = pytest.mark.parametrize("name", [f"models.{model}" for model in MODELS])
STEPS = 7


@EVERY
def test_counting_operations_changes_no_bits(name, monkeypatch, counted):
    found = trainer(tiny_model(name), steps=STEPS)
    found.run()
    plain = trainer(tiny_model(name), steps=STEPS)
    monkeypatch.setattr(Trainer, "_count_one_step", lambda self: None)
    plain.run()
    assert plain.flops_per_image is None
    assert found.flops_per_image > found.facts()["parameters"]
    monkeypatch.setattr(Trainer, "flops_per_image", None)
    assert_same_training(found, plain)


@EVERY
def test_no_operation_reads_memory_that_nothing_has_written(name, monkeypatch):
    """Trainings do without PyTorch's check of that (`pipeline.core.stage.prepare_torch`)."""
    found = []
    for fill in (True, False):
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", fill)
        torch.set_deterministic_debug_mode("error")
        try:
            found.append(trainer(tiny_model(name), steps=STEPS))
            found[-1].run()
        finally:
            torch.set_deterministic_debug_mode("default")
    assert_same_training(*found)


class Alternating(Stub):
    """Two updates in the first of three steps, and one in the others; each is one product."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def groups(self):
        return {
            name: Group([self.weight], lambda p: torch.optim.SGD(p, lr=0.0)) for name in ("a", "b")
        }

    def training_step(self, batch, update, rng):
        products = torch.zeros(2, 3) @ torch.zeros(3, 5)
        if self.steps % 3 == 0:
            products @ torch.zeros(5, 7)
            update("b", self.weight.sum())
        update("a", self.weight.sum())
        self.steps += 1
        return {}


@pytest.mark.parametrize(("steps", "rich"), [(9, 3), (10, 4), (11, 4)])
def test_operations_are_counted_by_kind_of_step(steps, rich, counted):
    made = trainer(Alternating(), steps=steps)
    made.run()
    assert made.kinds == {"b+a": rich, "a": steps - rich}
    assert made.flops == {"b+a": 2 * 2 * 3 * 5 + 2 * 2 * 5 * 7, "a": 2 * 2 * 3 * 5}
    total = steps * 2 * 2 * 3 * 5 + rich * 2 * 2 * 5 * 7
    assert made.flops_per_image == round(total / made.images_seen)


def test_a_kind_of_step_that_was_never_counted_leaves_no_sum(counted):
    made = trainer(Alternating(), steps=2)
    made.run()
    assert made.kinds.keys() - made.flops.keys() == {"a"}
    assert made.flops_per_image is None


def test_checkpoints_are_written_meanwhile_and_not_at_the_end(tmp_path):
    path = tmp_path / "model.ckpt"
    one = trainer(Stub(), steps=5, checkpoint=path, checkpoint_seconds=1e-9)
    one.run()
    other = trainer(Stub(), steps=5)
    other.load(path)
    assert other.step == 4
    assert [each.name for each in tmp_path.iterdir()] == ["model.ckpt"]


def numbered(n):
    """n images whose pixels hold their number."""
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()


def test_each_epoch_sees_each_image_once_with_its_label():
    stub = Stub()
    Trainer(stub, numbered(40), 2 * torch.arange(40), seed=0, steps=15).run()
    orders = []
    for epoch in range(3):
        batches = [batch for batch, *_ in stub.seen[5 * epoch : 5 * epoch + 5]]
        images = torch.cat([batch.images[:, 0, 0, 0] for batch in batches]).long()
        assert torch.equal(2 * images, torch.cat([batch.labels for batch in batches]))
        assert images.sort().values.tolist() == list(range(40))
        orders.append(images.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_an_epochs_tail_that_fills_no_batch_is_dropped():
    stub = Stub()
    Trainer(stub, numbered(43), torch.arange(43), seed=0, steps=10).run()
    for batches in (stub.seen[:5], stub.seen[5:]):
        labels = torch.cat([batch.labels for batch, *_ in batches])
        assert len(set(labels.tolist())) == 40


def test_steps_draw_other_numbers_and_a_rerun_the_same():
    first, second = Stub(), Stub()
    for stub in (first, second):
        trainer(stub, steps=5).run()
    numbers = [each[1:] for each in first.seen]
    assert numbers == [each[1:] for each in second.seen]
    assert len({value for pair in numbers for value in pair}) == 10


def test_the_seed_decides_order_and_noise():
    runs = []
    for seed in (0, 1):
        stub = Stub()
        Trainer(stub, numbered(40), torch.arange(40), seed=seed, steps=1).run()
        runs.append((stub.seen[0][0].labels.tolist(), *stub.seen[0][1:]))
    assert all(a != b for a, b in zip(*runs, strict=True))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(PipelineError, match=r"training\.batch is 8, but there are only 7"):
        trainer(Stub(), steps=1, n=7)


def test_gradients_are_clipped_to_the_norm():
    stub = Stub(loss=lambda weight: 1000 * weight.sum(), clip=0.5)
    trainer(stub, steps=1).run()
    assert (torch.ones(4) - stub.weight).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_small_gradients_are_left_alone():
    stub = Stub(loss=lambda weight: 0.01 * weight.sum(), clip=0.5)
    trainer(stub, steps=1).run()
    torch.testing.assert_close(stub.weight.data, torch.full((4,), 0.99))


def test_final_weights_are_the_average_with_its_warm_up():
    stub = Stub(ema=0.9)
    trainer(stub, steps=6).run()
    weight = average = 1.0
    for t in range(6):
        weight -= 1
        decay = min(0.9, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(stub.weight.data, torch.full((4,), average))


def test_a_training_that_was_stopped_keeps_its_raw_weights():
    stub = Stub(ema=0.9)
    trainer(stub, steps=6).run(stop_at=5)
    assert (stub.weight == -4).all()


def test_the_schedule_scales_every_step_and_ends_near_zero():
    stub, moved = Stub(schedule=nets.warm_cosine(0.1)), []
    one = trainer(stub, steps=50)
    before = stub.weight[0].item()
    for _ in range(50):
        one._train_one_step()
        moved.append(before - stub.weight[0].item())
        before = stub.weight[0].item()
    expected = [nets.warm_cosine(0.1)(step / 50) for step in range(50)]
    assert moved == pytest.approx(expected, abs=1e-5)
    assert moved[-1] < 0.01 < max(moved)


def test_after_step_runs_after_each_update():
    stub = Stub()
    stub.group = {"after_step": lambda: stub.weight.data.clamp_(-0.25, 0.25)}
    trainer(stub, steps=1).run()
    assert (stub.weight == 0).all()
    trainer(stub, steps=1).run()
    assert (stub.weight == -0.25).all()


def test_a_step_in_bf16_sees_the_weights_that_its_earlier_update_left():
    """Autocast keeps bfloat16 copies of weights, which must not outlive an update."""
    answers = []

    class Layered(Stub):
        def __init__(self):
            super().__init__(precision="bf16")
            self.weight = nn.Parameter(torch.ones(1, 4))

        def training_step(self, batch, update, rng):
            for _ in range(2):
                output = torch.nn.functional.linear(torch.ones(1, 4), self.weight)
                answers.append(output.item())
                update("model", output.float().sum())
            return {}

    trainer(Layered(), steps=1).run()
    assert answers == [4, 0]


def test_updates_and_images_are_counted():
    one = trainer(tiny_model("gan"), steps=5)
    one.run()
    facts = one.facts()
    assert facts["updates"] == {"generator": 5, "discriminator": 5}
    assert facts["images_seen"] == 40 and facts["steps"] == 5
    assert facts["parameters"] == sum(p.numel() for p in one.family.parameters())


@pytest.mark.parametrize(
    ("budget", "steps"), [(1.0, 8), (0.5, 4), (2.0, 16), (0.001, 1), (0.68, 5)]
)
def test_the_budget_scales_the_steps(budget, steps):
    """0.68 * 64 = 43.52 images are 5.44 batches; rounded to whole images they would be 5.5."""
    block = TrainingParams(images=64, batch=8).scaled(budget)
    assert block.steps == steps and block.images == 8 * steps


def test_a_group_without_an_update_ends_the_training():
    family = Stub(ema=0.9)
    idle = Group([nn.Parameter(torch.ones(1))], lambda p: torch.optim.SGD(p, lr=1.0))
    both = {**family.groups(), "idle": idle}
    family.groups = lambda: both
    one = trainer(family, steps=3)
    one.run(stop_at=2)
    with pytest.raises(PipelineError, match=r"training\.images: tiny_vae's idle had no update in "):
        one.run()


@EVERY
def test_the_same_seed_trains_the_same_weights(name):
    one, other = (trainer(tiny_model(name), steps=3) for _ in range(2))
    one.run()
    torch.rand(7)
    other.run()
    assert_same_training(one, other)


@EVERY
def test_final_weights_are_the_averages(name):
    one = trainer(tiny_model(name), steps=4)
    one.run()
    assert not one.family.training
    for group, average in one.averages.items():
        for parameter, shadow in zip(one.groups[group].parameters, average.shadow, strict=True):
            assert torch.equal(parameter, shadow)


def test_labels_and_images_stay_where_the_model_is():
    one = Trainer(Stub(), some_images(8), some_labels(8), seed=0, steps=1)
    assert one.images.device == one.labels.device == one.device


def test_flips_mirror_every_second_image_of_both_domains_and_change_nothing_else():
    images, others = some_images(64), some_images(64, seed=1)
    seen = {}
    for flips in (False, True):
        family = Stub()
        one = Trainer(family, images, some_labels(64), others=others, seed=0, steps=24, flips=flips)
        one.run()
        seen[flips] = family.seen
    assert [each[1:] for each in seen[False]] == [each[1:] for each in seen[True]]
    for domain in ("images", "others"):
        plain, found = (
            torch.cat([getattr(batch, domain) for batch, *_ in seen[flips]])
            for flips in (False, True)
        )
        kept = (found == plain).flatten(1).all(1)
        assert torch.equal(found[~kept], plain[~kept].flip(3))
        assert 0.35 < kept.float().mean() < 0.65
        assert len(kept[:64].unique()) == len(kept[64:128].unique()) == 2
    mirrored = [torch.cat([batch.labels for batch, *_ in seen[flips]]) for flips in seen]
    assert torch.equal(*mirrored)


def test_a_second_domain_is_shuffled_by_itself_and_wholly_seen():
    """Unpaired: what stands beside an image is another one in every epoch."""
    images, others = some_images(16), some_images(24, seed=1)
    images[:, 0, 0, 0] = torch.arange(16)
    others[:, 0, 0, 0] = torch.arange(24)
    family = Stub()
    Trainer(family, images, some_labels(16), others=others, seed=0, steps=6).run()
    seen = [(batch.images[:, 0, 0, 0], batch.others[:, 0, 0, 0]) for batch, _, _ in family.seen]
    firsts, seconds = ([each[i].tolist() for each in seen] for i in (0, 1))
    assert sorted(firsts[0] + firsts[1]) == sorted(firsts[2] + firsts[3]) == list(range(16))
    assert sorted(seconds[0] + seconds[1] + seconds[2]) == list(range(24))
    assert sorted(seconds[3] + seconds[4] + seconds[5]) == list(range(24))
    partners = [dict(zip(*pair, strict=True)) for pair in zip(firsts, seconds, strict=True)]
    first, second = {**partners[0], **partners[1]}, {**partners[2], **partners[3]}
    assert sum(first[image] == second[image] for image in range(16)) < 8


def test_a_second_domain_must_fill_a_batch_too():
    with pytest.raises(PipelineError, match="only 7 images"):
        Trainer(Stub(), some_images(8), some_labels(8), others=some_images(7), seed=0, steps=1)


def test_finish_gets_an_epoch_at_the_least():
    family, got = Stub(), []
    family.finish = lambda batches, rng: got.extend(batches)
    Trainer(family, some_images(32), some_labels(32), seed=0, steps=1).run()
    assert len(got) == 4


def test_facts_of_the_family_stand_with_those_of_its_training():
    family = Stub()
    family.facts = lambda: {"prior": "none"}
    one = Trainer(family, some_images(8), some_labels(8), seed=0, steps=1)
    one.run()
    assert one.facts()["prior"] == "none"
    assert one.facts()["images_seen"] == 8
