import numpy as np
import pytest
from compared import verdict

from pipeline.comparison import purposes, recommendation, tables
from pipeline.comparison.collect import FAILED, OK, OTHER
from pipeline.comparison.questions import told as told_in_table
from pipeline.comparison.ties import TIE_FACTOR

SAMPLES, UNLABELLED, LIKELIHOOD, RECONSTRUCTION = (each.name for each in purposes.PURPOSES)
CHEAPEST = "cheapest"
ONCE = "of a single training"
REFERENCE = {
    "dataset": "toy",
    "n_samples": 150,
    "n_reference": 150,
    "reference_split": "test",
    "second_features": "judge-64x3",
}


def model(name, **values):
    row = {"kind": "model", "status": OK, "model": name, "label": name, "family": "gan"}
    return {**row, "parameters": 1000, "images_seen": 50000, **values}


def reference(name, **values):
    return {"kind": "reference", "status": OK, "model": name, "label": name, **values}


def over(key, low, high):
    """The interval over trainings."""
    return {f"{key}_trained_low": low, f"{key}_trained_high": high}


def fid(value, low=None, high=None):
    return {"fid": value} | ({} if low is None else over("fid", low, high))


def bits(value, low=None, high=None, bound="exact"):
    found = {"bits_per_dim": value, "likelihood_bound": bound}
    return found | ({} if low is None else over("bits_per_dim", low, high))


def cost(flops, images=50000, **more):
    return {"training_flops_per_image": flops, "images_seen": images, **more}


def text(rows, title="toy", gate="", **facts):
    return recommendation.text(rows, REFERENCE | facts, title, gate)


def scale():
    """What learns next to nothing, and real images."""
    return [
        reference("real", fid=8.0, coverage=0.5),
        reference("histogram", fid=40.0, bits_per_dim=6.5),
        reference("mean", fid=50.0, reconstruction_mse=0.04),
        reference("png", bits_per_dim=4.8),
        reference("pca_64", reconstruction_mse=0.003),
        reference("pca_32", reconstruction_mse=0.005),
    ]


def told(rows):
    """The first answer for each purpose."""
    found = {}
    for each in recommendation.answers(rows):
        found.setdefault(each.purpose.strip(), each)
    return found


def cheapest(rows, purpose=SAMPLES):
    """The answer that follows the one for a purpose, if it is that of the cheapest."""
    found = recommendation.answers(rows)
    names = [each.purpose.strip() for each in found]
    after = names.index(purpose) + 1
    return found[after] if names[after : after + 1] == [CHEAPEST] else None


def caveats(rows, purpose=SAMPLES):
    return "; ".join(told(rows)[purpose].caveats)


# --- what is recommended -------------------------------------------------------------------------


def test_each_purpose_has_its_own_best():
    rows = [
        model("ddpm", **fid(2.0), **bits(3.0)),
        model("gpt", **fid(9.0), **bits(0.9)),
        model("vae", **fid(30.0), **bits(1.4), reconstruction_mse=0.01),
        model("ae", **fid(20.0), reconstruction_mse=0.005),
    ]
    found = told(rows)
    assert {name: each.model for name, each in found.items()} == {
        SAMPLES: "ddpm",
        LIKELIHOOD: "gpt",
        RECONSTRUCTION: "ae",
    }
    assert found[SAMPLES].value == "FID 2.00"
    assert found[LIKELIHOOD].value == "0.900 bits/dim"
    assert found[RECONSTRUCTION].value == "MSE 0.00500"


def test_nothing_is_recommended_that_failed_was_judged_otherwise_or_is_no_model():
    best = {**fid(0.1), **bits(0.01), "reconstruction_mse": 1e-6, **cost(1.0)}
    rows = [
        reference("real", **best),
        {**model("broken", **best), "status": FAILED},
        {**model("stranger", **best), "status": OTHER},
        model("plain", **fid(50.0), **bits(5.0), reconstruction_mse=0.5, **cost(1e9)),
        model("other", **fid(51.0), **bits(5.1), reconstruction_mse=0.6, **cost(1e9)),
    ]
    for each in recommendation.answers(rows):
        assert each.model == "plain"
        assert set(each.tied) <= {"other"}
    assert "plain" in text(rows)
    for name in ("real", "broken", "stranger"):
        assert name not in text(rows)


def test_a_reference_row_of_a_models_name_changes_nothing():
    rows = [model("noise", **fid(5.0)), model("gan", **fid(6.0))]
    found = recommendation.answers([reference("noise", **fid(200.0)), *rows])
    assert found == recommendation.answers(rows)
    assert found[0].model == "noise" and found[0].tied == ("gan",)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [reference("real", **fid(0.5))],
        [{**model("broken"), "status": FAILED}],
        [{**model("stranger", **fid(1.0)), "status": OTHER}],
        [model("cyclegan", cycle_mse=0.004, fid=None, bits_per_dim=None)],
    ],
)
def test_where_no_model_has_anything_nothing_is_recommended(rows):
    assert recommendation.answers(rows) == []
    assert text(rows) == "nothing can be recommended: no model has metrics that rank it"


def test_a_purpose_that_no_model_serves_is_left_out():
    rows = [model("dcgan", **fid(2.0)), model("wgan", **fid(9.0))]
    assert set(told(rows)) == {SAMPLES}
    assert set(told([model("cgan", **fid(2.0), label_accuracy=0.9)])) == {SAMPLES}
    assert set(told([model("flow", **bits(1.0))])) == {LIKELIHOOD}


def test_equal_values_keep_the_order_of_params():
    rows = [model(name, **fid(2.0), **bits(1.0)) for name in ("b", "a", "c")]
    assert told(rows)[SAMPLES].model == told(rows)[LIKELIHOOD].model == "b"
    assert told(rows)[SAMPLES].tied == ("a", "c")


# --- ties ----------------------------------------------------------------------------------------


def some_rows(seed):
    """Models with and without values, intervals, labels and costs, of any status, and references.

    Values are in a narrow range, so that many tie.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(12):
        values = {}
        for key, start in (("fid", 4.0), ("bits_per_dim", 1.2), ("reconstruction_mse", 0.01)):
            if rng.random() < 0.8:
                values[key] = float(start * rng.uniform(1, 3))
                if rng.random() < 0.5:
                    reach = rng.uniform(0, 0.4)
                    values |= over(key, values[key] * (1 - reach), values[key] * (1 + reach))
        if rng.random() < 0.3:
            values["label_accuracy"] = 0.9
        if rng.random() < 0.7:
            values |= cost(float(rng.uniform(1e6, 1e9)), int(rng.integers(1000, 90000)))
        status = rng.choice([OK, OK, OK, OK, FAILED, OTHER])
        rows.append({**model(f"m{i}", **values), "status": str(status)})
    return [*rows, reference("real", fid=0.5, bits_per_dim=0.1, reconstruction_mse=0.0)]


def letters(rows, key):
    """Letters of a table by name, of the rows that the page ranks."""
    listed = [row for row in tables.ranked(rows, key) if row["status"] == OK]
    named = {"fid": "tie", "bits_per_dim": "bits_tie"}[key]
    return {
        row["model"]: set(row[named].split())
        for row in tables.with_ties(listed)
        if row["kind"] == "model"
    }


@pytest.mark.parametrize("seed", range(40))
def test_ties_are_those_of_the_tables(seed):
    rows = some_rows(seed)
    for purpose, key in ((SAMPLES, "fid"), (LIKELIHOOD, "bits_per_dim")):
        answer, marks = told(rows)[purpose], letters(rows, key)
        eligible = [row for row in rows if row["model"] in marks]
        assert answer.model == min(eligible, key=lambda row: row[key])["model"]
        expected = {name for name, each in marks.items() if each & marks[answer.model]}
        assert {answer.model, *answer.tied} == expected | {answer.model}
        values = {row["model"]: row[key] for row in eligible}
        assert list(answer.tied) == sorted(answer.tied, key=values.get), "best first"


@pytest.mark.parametrize("seed", range(40))
def test_the_cheapest_of_those_tied_is_really_the_cheapest(seed):
    rows = some_rows(seed)
    by_name = {row["model"]: row for row in rows}
    found = recommendation.answers(rows)
    before = set()
    for answer, after in zip(found, [*found[1:], None], strict=True):
        if answer.purpose.strip() == CHEAPEST:
            assert answer.model not in before, "it is said twice"
            before.add(answer.model)
            continue
        tied = [by_name[name] for name in (answer.model, *answer.tied)]
        spent = {
            row["model"]: row["training_flops_per_image"] * row["images_seen"]
            for row in tied
            if "training_flops_per_image" in row
        }
        if len(tied) < 2 or not spent or min(spent, key=spent.get) in before:
            assert after is None or after.purpose.strip() != CHEAPEST
        else:
            assert after.purpose.strip() == CHEAPEST
            assert after.model == min(spent, key=spent.get)
            assert f"{spent[after.model] / 1e12:.2f} TFLOP of training" in after.value


@pytest.mark.parametrize(("other", "tied"), [(1.0, True), (1.49, True), (1.51, False)])
def test_fids_of_single_trainings_tie_by_a_factor_and_it_is_said(other, tied):
    rows = [model("best", **fid(2.0)), model("other", **fid(2.0 * other))]
    answer = told(rows)[SAMPLES]
    assert TIE_FACTOR == 1.5
    assert answer.tied == (("other",) if tied else ())
    said = "Each model was trained once: FIDs within a factor of 1.5 are a tie"
    assert text(rows).replace("\n", " ").count(said) == 1
    assert "single training" not in caveats(rows)
    assert ("tied with other" in answer.sentence()) == tied
    assert ("tied with no other" in answer.sentence()) == (not tied)


def test_fids_of_several_trainings_tie_by_their_intervals_and_need_no_guess():
    rows = [
        model("best", **fid(2.0, 1.9, 2.1)),
        model("near", **fid(2.2, 2.1, 2.4)),
        model("far", **fid(2.3, 2.15, 2.5)),
    ]
    assert told(rows)[SAMPLES].tied == ("near",), "near is tied with far, but the best is not"
    assert ONCE not in text(rows)


def test_who_ties_by_a_guess_is_named_where_others_were_trained_often():
    rows = [
        model("best", **fid(2.0, 1.9, 2.1)),
        model("once", **fid(2.5)),
        model("near", **fid(2.2, 2.1, 2.4)),
        model("far", **fid(9.0)),
    ]
    assert told(rows)[SAMPLES].tied == ("near", "once")
    assert "ties by a guess, of a single training: once (" in caveats(rows)
    assert "trained once" not in text(rows)
    rows[1] = model("once", **fid(2.5, 2.4, 2.6))
    assert ONCE not in text(rows)


@pytest.mark.parametrize("purpose", [LIKELIHOOD, RECONSTRUCTION])
def test_no_ties_are_claimed_of_what_was_trained_once(purpose):
    key = {LIKELIHOOD: "bits_per_dim", RECONSTRUCTION: "reconstruction_mse"}[purpose]
    rows = [model("best", **{key: 1.2}, **cost(9.0)), model("same", **{key: 1.2}, **cost(1.0))]
    answer = told(rows)[purpose]
    assert answer.model == "best" and answer.tied == () and answer.alone == ""
    assert "tied" not in answer.sentence()
    said = "of ties in bits/dim and MSE nothing is known"
    assert text(rows).replace("\n", " ").count(said) == 1
    assert cheapest(rows, purpose) is None


@pytest.mark.parametrize("once", ["best", "other"])
def test_a_likelihood_of_one_training_ties_with_no_interval(once):
    rows = [
        model(name, **(bits(value) if name == once else bits(value, 1.0, 1.4)))
        for name, value in (("best", 1.2), ("other", 1.21))
    ]
    answer = told(rows)[LIKELIHOOD]
    assert answer.model == "best" and answer.tied == () and answer.alone == ""
    assert "nothing is known of ties" in caveats(rows, LIKELIHOOD)
    assert "tied with no other" not in answer.sentence()


def test_likelihoods_of_several_trainings_tie_by_their_intervals():
    rows = [
        model("best", **bits(1.20, 1.18, 1.22)),
        model("near", **bits(1.23, 1.21, 1.25)),
        model("far", **bits(1.30, 1.29, 1.31)),
    ]
    answer = told(rows)[LIKELIHOOD]
    assert answer.tied == ("near",)
    assert answer.sentence() == "best (family gan), 1.200 bits/dim; tied with near"
    rows[1] = model("near", **bits(1.27, 1.26, 1.28))
    said = "best (family gan), 1.200 bits/dim; tied with no other"
    assert told(rows)[LIKELIHOOD].sentence() == said


# --- the cheapest --------------------------------------------------------------------------------


def test_what_a_training_costs_is_of_all_its_images():
    rows = [
        model("few", **fid(2.0), **cost(3_000_000, images=10_000, sampling_flops=2_500_000)),
        model("many", **fid(2.1), **cost(1_000_000, images=100_000)),
        model("far", **fid(9.0), **cost(1.0)),
    ]
    answer = cheapest(rows)
    assert answer.model == "few"
    assert answer.value == "0.03 TFLOP of training and 2.5 MFLOP per sample"
    assert "FID 2.00" in answer.caveats
    assert "operations are no measure of time" in answer.caveats


def test_nothing_is_the_cheapest_of_one_or_where_no_cost_is_known():
    assert cheapest([model("a", **fid(2.0), **cost(1.0)), model("b", **fid(9.0))]) is None
    assert cheapest([model("a", **fid(2.0)), model("b", **fid(2.1))]) is None


def test_whose_cost_is_not_known_is_named():
    rows = [
        model("dear", **fid(2.0), **cost(2e9)),
        model("cheap", **fid(2.1), **cost(1e9)),
        model("theirs", **fid(2.2)),
    ]
    answer = cheapest(rows)
    assert answer.model == "cheap"
    assert "nothing is known of the cost of theirs" in answer.caveats
    assert "nothing is known of the cost" not in "; ".join(cheapest(rows[:2]).caveats)


# --- caveats -------------------------------------------------------------------------------------


def test_a_winner_that_is_told_its_labels_says_so_and_another_stands_beside_it():
    rows = [
        model("cgan", **fid(2.0), label_accuracy=0.98),
        model("cddpm", **fid(2.1), label_accuracy=0.97),
        model("ddpm", **fid(2.5)),
        model("gan", **fid(2.6)),
    ]
    found = told(rows)
    assert found[SAMPLES].model == "cgan"
    assert found[SAMPLES].tied == ("cddpm", "ddpm", "gan")
    assert "it is told which class to draw" in caveats(rows)
    assert text(rows).count("told which class") == 1
    assert found[UNLABELLED].model == "ddpm" and found[UNLABELLED].tied == ("gan",)
    assert "told which class" not in caveats(rows, UNLABELLED)


def test_a_winner_without_labels_is_the_best_of_both_and_told_once():
    rows = [model("ddpm", **fid(2.0)), model("cgan", **fid(2.1), label_accuracy=0.9)]
    found = told(rows)
    assert found[SAMPLES].model == "ddpm" and UNLABELLED not in found
    assert found[SAMPLES].tied == ("cgan",)
    assert "told which class" not in text(rows)


def test_a_cheapest_without_labels_does_not_hide_the_best_without_labels():
    rows = [
        model("cgan", **fid(2.0), label_accuracy=0.9, **cost(9.0)),
        model("ddpm", **fid(2.1), **cost(1.0)),
    ]
    found = told(rows)
    assert found[SAMPLES].model == "cgan" and found[UNLABELLED].model == "ddpm"


@pytest.mark.parametrize(
    ("coverage", "said"), [(0.3, "30 %"), (0.89, "89 %"), (0.9, None), (0.99, None), (None, None)]
)
def test_samples_that_do_not_cover_the_real_images_say_so(coverage, said):
    found = caveats([model("gan", **fid(2.0), coverage=coverage)])
    if said is None:
        assert "cover" not in found
    else:
        assert f"its samples cover {said} of the test images' neighbourhoods" in found


@pytest.mark.parametrize(("coverage", "said"), [(0.44, True), (0.46, False)])
def test_samples_are_not_asked_to_cover_more_than_real_images_do(coverage, said):
    found = caveats([*scale(), model("gan", **fid(2.0), coverage=coverage)])
    assert ("its samples cover 44 %" in found) == said
    assert ("(real training images: 50 %)" in found) == said


@pytest.mark.parametrize(
    ("facts", "said"),
    [({"latent_density": "one Gaussian"}, "latent density"), ({"prior": "VampPrior"}, "prior")],
)
def test_samples_of_something_fitted_afterwards_say_so(facts, said):
    found = caveats([model("ae", **fid(2.0), **facts)])
    assert f"its samples are as much those of its {said}" in found


@pytest.mark.parametrize("bound", ["elbo", "iwae", "variational"])
def test_a_bound_is_no_likelihood_and_says_so(bound):
    found = caveats([model("vae", **bits(1.2, bound=bound))], LIKELIHOOD)
    assert f"an upper bound ({bound}), so the true value may be lower" in found


def test_an_exact_likelihood_has_no_such_caveat():
    assert "bound" not in caveats([model("gpt", **bits(1.2))], LIKELIHOOD)


def test_caveats_are_those_of_the_best_and_not_of_others():
    rows = [
        model("gpt", **bits(1.0), **fid(2.0), coverage=0.95),
        model("vae", **bits(1.5, bound="elbo"), **fid(30.0), coverage=0.1, label_accuracy=0.5),
    ]
    for said in ("bound", "cover", "told which class"):
        assert said not in text(rows)


def test_reconstructions_from_codes_of_any_size_rank_no_models():
    rows = [model("ae", reconstruction_mse=0.01), model("vae", reconstruction_mse=0.02)]
    assert "codes differ in size" in caveats(rows, RECONSTRUCTION)


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_the_text_is_plain_and_has_a_paragraph_for_each_answer(seed):
    rows = [
        row | {"bits_per_dim_stderr": 0.0125, "coverage": 0.5, "sampling_flops": 1e6}
        if row["kind"] == "model"
        else row
        for row in [*some_rows(seed), *scale()[1:]]
    ]
    gate = "nothing got worse"
    head, _, lines = text(rows, gate=gate).partition("\n\n")
    lines = lines.splitlines()
    assert head.replace("\n", " ") == recommendation.opening(rows, REFERENCE, "toy")
    assert all(line.isascii() and len(line) <= recommendation.WIDTH for line in lines)
    expected = [(each.purpose, each.sentence()) for each in recommendation.answers(rows)]
    expected.append(("falls short", recommendation.shortfalls(rows)))
    expected.append(("after a change", gate))
    width = max(len(purpose) for purpose, _ in expected) + 2
    starts = [i for i, line in enumerate(lines) if line[:width].strip()]
    assert [lines[i][:width].rstrip() for i in starts] == [purpose for purpose, _ in expected]
    for (_, sentence), start, end in zip(expected, starts, [*starts[1:], len(lines)], strict=True):
        told = " ".join(line[width:].strip() for line in lines[start:end])
        assert told == sentence.replace("±", "+-")


def test_a_newcomer_reads_what_images_these_are_and_what_the_judgement_rests_on():
    judges = verdict(second=[])
    facts = {
        "dataset": "folder",
        "judges": judges,
        "images": {
            "shape": [3, 48, 32],
            "classes": ["apple", "banana", "orange"],
            "train": 351,
            "val": 39,
            "test": 150,
        },
    }
    rows = [model("gan", **fid(2.0)), model("vae", **fid(9.0))]
    said = recommendation.opening(rows, REFERENCE | facts, "fruits")
    assert said.startswith(
        "fruits: 540 colour images of 32x48 pixels in 3 classes (apple, banana, orange), 351 of "
        "them to train on. FIDs are of 150 test images and as many samples, by 2 classifiers and, "
        "for a second opinion, 2 judges without labels. Each model was trained once"
    )
    facts["images"] |= {"shape": [1, 28, 28], "classes": ["images"]}
    said = recommendation.opening(rows, REFERENCE | facts, "fruits")
    assert "grey images of 28x28 pixels without labels, 351" in said
    facts["images"] |= {"classes": list("abcdefghijklmnopqrstuvwxyz")}
    said = recommendation.opening(rows, REFERENCE | facts, "fruits")
    assert "in 26 classes (a, b, c, ...), 351" in said
    often = [model("gan", **fid(2.0, 1.9, 2.1), trainings=3)]
    said = recommendation.opening(often, REFERENCE, "fruits")
    assert said.startswith("toy. FIDs are of") and "Each model was trained 3 times" in said


# --- scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7.9, "as near to the test images as real training images (8.00; independent pixels: 40"),
        (11.9, "nearly as near to the test images as real training images (8.00;"),
        (12.1, "where real training images have 8.00 and independent pixels 40.00"),
        (26.6, "where real training images have 8.00 and independent pixels 40.00"),
        (26.7, "hardly better than independent pixels (40.00; real training images: 8.00)"),
        (39.9, "hardly better than independent pixels"),
        (40.0, "no better than independent pixels (40.00; real training images: 8.00)"),
    ],
)
def test_a_fid_is_read_between_real_images_and_what_learns_nothing(value, said):
    answer = told([*scale(), model("gan", **fid(value))])[SAMPLES]
    assert answer.scale.startswith(said)
    assert f"FID {value:.2f}, {said}" in answer.sentence()


def test_the_better_of_what_learns_nothing_is_the_limit():
    rows = [*scale(), model("gan", **fid(35.0))]
    rows[2] = reference("mean", fid=30.0)
    assert told(rows)[SAMPLES].scale.startswith("no better than the mean image (30.00;")
    assert recommendation.shortfalls(rows).startswith(
        "in FID no better than the mean image (30.00): gan (35.00)"
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (4.2, "where PNG needs 4.800 and independent pixels 6.500"),
        (4.8, "no better than PNG (4.800; independent pixels: 6.500)"),
    ],
)
def test_a_likelihood_is_read_beside_png(value, said):
    assert told([*scale(), model("gpt", **bits(value))])[LIKELIHOOD].scale == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.004, "where PCA has 0.00500 with 32 components and 0.00300 with 64 components, and the "
                "mean image 0.04000"),
        (0.005, "no better than PCA of 32 components (0.00500; the mean image: 0.04000)"),
    ],
)  # fmt: skip
def test_a_reconstruction_is_read_beside_pca(value, said):
    rows = [*scale(), model("ae", reconstruction_mse=value)]
    assert told(rows)[RECONSTRUCTION].scale == said


def test_without_a_scale_there_are_no_words_for_it():
    rows = [model("vae", **fid(9.0), **bits(4.0), reconstruction_mse=0.01)]
    assert all(answer.scale == "" for answer in recommendation.answers(rows))
    assert recommendation.shortfalls(rows) == ""


def test_what_falls_short_is_named_with_its_numbers():
    good = model("good", **fid(9.0), **bits(4.0), reconstruction_mse=0.01)
    rows = [
        *scale(),
        good,
        model("poor", **fid(40.0), **bits(4.8)),
        model("flat", reconstruction_mse=0.05),
        {**model("stranger", **fid(90.0)), "status": OTHER},
    ]
    assert recommendation.shortfalls(rows) == (
        "in FID no better than independent pixels (40.00): poor (40.00); in bits/dim no better "
        "than PNG (4.800): poor (4.800); in MSE no better than the mean image (0.04000): flat "
        "(0.05000)"
    )
    assert recommendation.shortfalls([*scale(), good]) == (
        "no model: all are better than independent pixels in FID, PNG in bits/dim and the mean "
        "image in MSE"
    )


# --- judges --------------------------------------------------------------------------------------


def test_the_other_judges_say_where_they_place_the_winner():
    rows = [
        model("a", **fid(1.0), second_fid=9.0),
        model("b", **fid(2.0), second_fid=3.0),
        model("c", **fid(3.0), second_fid=4.0),
    ]
    assert "3rd of 3 by second FID (b is 1st)" in told(rows)[SAMPLES].sentence()
    rows[0]["second_fid"] = 1.0
    assert "1st of 3 by second FID, too" in told(rows)[SAMPLES].sentence()
    rows[0]["second_fid"] = None
    assert "second FID" not in told(rows)[SAMPLES].sentence()


def test_what_only_the_other_judges_cannot_rank_they_do_not_place():
    rows = [model("a", **fid(1.0), second_fid=9.0), model("b", **fid(2.0), second_fid=3.0)]
    reference = REFERENCE | {"judges": verdict(second=["they see no blur"])}
    (answer, *_) = recommendation.answers(rows, reference)
    assert answer.model == "a" and answer.second == ""


def test_where_fids_rank_nothing_no_samples_are_recommended():
    rows = [*scale(), model("vae", **fid(90.0), **bits(4.0)), model("gan", **fid(3.0))]
    blind = verdict("they see no blur", second=["nor do they"])
    reference = REFERENCE | {"judges": blind}
    assert [each.purpose for each in recommendation.answers(rows, reference)] == [LIKELIHOOD]
    assert "FID" not in recommendation.shortfalls(rows, reference)
    said = " ".join(text(rows, judges=blind).split())
    assert "rank nothing" in said and "best samples" not in said
    assert "of samples nothing can be said, as no judges see what is known to be worse" in said


def test_where_only_the_other_judges_see_damage_samples_are_compared_by_them():
    rows = [
        *scale(),
        model("vae", **fid(2.0), second_fid=90.0),
        model("gan", **fid(30.0), second_fid=3.0),
    ]
    for row, value in zip(rows, (1.0, 80.0, 85.0), strict=False):
        row["second_fid"] = value
    reference = REFERENCE | {"judges": verdict("they see no blur", second=[])}
    (answer, *_) = recommendation.answers(rows, reference)
    assert answer.model == "gan" and answer.value == "second FID 3.00" and answer.second == ""
    assert "in second FID no better than" in recommendation.shortfalls(rows, reference)
    assert "vae (90.00)" in recommendation.shortfalls(rows, reference)


def test_cautions_are_said_once_and_name_no_model():
    rows = [model(f"m{i}", **fid(1.0 + i), second_fid=9.0 - i) for i in range(6)]
    said = " ".join(text(rows, judges=verdict(shift=6.8, floor_n=150)).split())
    for each in ("rank these models differently", "shows other images", "FIDs are of 150 images"):
        assert said.count(each) == 1
    assert "m5 is 1st, not 6th" not in said and "6 of them by" not in said


# --- labels --------------------------------------------------------------------------------------


def test_a_model_is_conditional_because_it_says_so_and_not_because_labels_were_learnt():
    """Judges that cannot tell classes apart measure no label accuracy."""
    rows = [
        model("cgan", **fid(2.0), label_accuracy=None, conditional=True),
        model("ddpm", **fid(2.5), label_accuracy=None, conditional=False),
    ]
    found = told(rows)
    assert found[SAMPLES].model == "cgan" and found[UNLABELLED].model == "ddpm"
    assert "it is told which class to draw" in caveats(rows)
    marks = [told_in_table(row) for row in rows]
    assert marks == ["given", ""]
    # Of one class it is told nothing.
    rows[0] |= {"conditional": False}
    assert UNLABELLED not in told(rows)
    # What an older version measured does not say.
    old = [model("cgan", **fid(2.0), label_accuracy=0.9), model("ddpm", **fid(2.5))]
    assert told(old)[UNLABELLED].model == "ddpm"
    assert [told_in_table(row) for row in old] == ["given", ""]


def test_errors_of_values_are_shown():
    rows = [model("gpt", **bits(1.2), bits_per_dim_stderr=0.0125)]
    assert "1.200 +- 0.013 bits/dim" in text(rows)
    assert "1.200 ± 0.013 bits/dim" in told(rows)[LIKELIHOOD].value
