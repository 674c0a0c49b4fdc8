import json

import pytest
import torch
from clone import Clone

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def test_the_default_run_of_one_model_meets_its_floor_on_the_gpu(tmp_path):
    clone = Clone(tmp_path, ("pixelcnn",), small=False)
    clone.params["runtime"]["device"] = "cuda"
    clone.write_params()
    clone.run("dvc", "repro", "evaluate@pixelcnn")
    found = json.loads(clone.text("metrics/mnist-5k/models/pixelcnn.json"))
    assert found["bits_per_dim"] <= 1.25
    timings = [json.loads(p.read_text()) for p in (tmp_path / "work/timings").iterdir()]
    assert all(each["device"] != "cpu" for each in timings)
