import pytest
import torch
from builders import Stub, trainer

from pipeline.core.errors import PipelineError
from pipeline.training import trainer as training
from pipeline.training.history import History


def test_the_curve_holds_means_over_windows(monkeypatch):
    monkeypatch.setattr(training, "HISTORY_POINTS", 2)

    class Counting(Stub):
        def training_step(self, batch, update, rng):
            super().training_step(batch, update, rng)
            return {"model/loss": torch.tensor(float(len(self.seen)))}

    one = trainer(Counting(), steps=7)
    one.run()
    assert one.history.to_csv() == ("step,images,model/loss\n3,24,2\n6,48,5\n7,56,7\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(value):
    stub = Stub(terms={"model/kl": torch.tensor(value)})
    with pytest.raises(PipelineError, match=r"diverged: model/kl is (nan|inf) at step 1"):
        trainer(stub, steps=5).run()


def test_a_term_that_some_steps_log_is_a_mean_over_those_steps():
    history = History()
    for value in (1.0, 2.0, 6.0):
        history.add({"a/loss": torch.tensor(value)})
    history.add({"b/loss": torch.tensor(1 / 3, requires_grad=True)})
    assert history.flush(4, 32) == {
        "step": 4,
        "images": 32,
        "a/loss": 3,
        "b/loss": pytest.approx(1 / 3),
    }
    history.add({"a/loss": torch.tensor(-2.0)})
    history.flush(5, 40)
    assert history.to_csv() == "step,images,a/loss,b/loss\n4,32,3,0.333333\n5,40,-2,\n"
    assert [step for step, _ in history.times] == [4, 5]
    assert not history.sums and not history.counts


def test_one_tensor_logged_twice_is_kept_in_a_checkpoint(tmp_path, monkeypatch):
    """And what a family goes on counting in is logged as it was."""
    monkeypatch.setattr(training, "HISTORY_POINTS", 1)
    count = torch.zeros(())

    class Twice(Stub):
        def training_step(self, batch, update, rng):
            super().training_step(batch, update, rng)
            count.add_(1)
            return {"model/loss": count, "model/same": count}

    one = trainer(Twice(), steps=5)
    one.run(stop_at=1)
    one.save(tmp_path / "model.ckpt")
    again = trainer(Twice(), steps=5)
    again.load(tmp_path / "model.ckpt")
    assert again.history.sums == one.history.sums == {"model/loss": count, "model/same": count}
    before = float(count)
    count.add_(1)
    assert one.history.sums["model/loss"] == before
