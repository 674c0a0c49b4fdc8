from compared import verdict

from pipeline.comparison import tables
from pipeline.comparison.collect import FAILED, OK, OTHER
from pipeline.core import paths

HOME = paths.Results("toy")

PROTOCOL = {
    "dataset": "toy",
    "n_samples": 20,
    "n_reference": 20,
    "reference_split": "test",
    "fid_features": "judge-64x3",
    "protocol": "0123456789abcdef",
}
REFERENCE = {**PROTOCOL, "rows": []}
SAMPLES = "How good are the samples?"
LABELS = "Do the samples show the class that was asked for?"
LIKELIHOOD = "How well is an unseen image predicted?"
RECONSTRUCTION = "How much of an image survives encoding?"
TRANSLATION = "How well are images translated?"
COST = "What did it cost?"
OWN = "What else was measured?"
OTHERS = "Not comparable: other protocol"


def fid(value):
    return {"fid": value, "fid_min": value * 0.9, "fid_max": value * 1.1}


def bits(value, bound):
    return {
        "bits_per_dim": value,
        "bits_per_dim_stderr": 0.0125,
        "likelihood_bound": bound,
        "nats_per_image": 680.0,
    }


def decoded(mse):
    return {
        "reconstruction_mse": mse,
        "reconstruction_psnr": 21.9,
        "reconstruction_kind": "posterior mean",
    }


def model(name, family="gan", **values):
    cost = {"parameters": 1000, "images_seen": 50000}
    named = {"kind": "model", "status": OK, "model": name, "label": name, "family": family}
    return {**named, **PROTOCOL, **cost, **values}


def reference(name, label, **values):
    return {"kind": "reference", "status": OK, "model": name, "label": label, **PROTOCOL, **values}


MODELS = [
    model("zeta", "vae", **fid(6.0), **bits(1.25, "elbo"), **decoded(0.0071)),
    model("alpha", **fid(5.0), parameters=2000000),
    {
        "kind": "model",
        "status": FAILED,
        "model": "broken",
        "label": "broken",
        "family": "ddpm",
    },
    model("exact", "pixelcnn", **fid(3.5), **bits(0.9, "exact"), parameters=1500),
    model("stranger", **fid(0.1), status=OTHER, protocol="f" * 16, n_samples=10),
]
REFERENCES = [
    reference("real", "real training images", **fid(0.5)),
    reference("noise", "uniform noise", **fid(200.0)),
    reference("png", "PNG", bits_per_dim=1.8, likelihood_bound="code length", nats_per_image=966.0),
    reference("pca_32", "PCA-32", **decoded(0.016)),
]
ROWS = MODELS + REFERENCES


def page(rows=ROWS):
    return tables.to_markdown(rows, REFERENCE, "toys")


def body(markdown, title):
    """What stands under a heading."""
    return markdown.split(f"## {title}\n")[1].split("\n## ")[0]


def whole(markdown, title):
    """The cells of the table under a heading, with its head."""
    lines = [line for line in body(markdown, title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    return [cells[0], *cells[2:]]


def section(markdown, title):
    return whole(markdown, title)[1:]


def names(markdown, title):
    return [row[0] for row in section(markdown, title)]


# --- which rows, in which order ----------------------------------------------------------------


def test_fids_are_sorted_with_the_references_in_their_place():
    table = section(page(), SAMPLES)
    assert [row[0] for row in table] == [
        "*real training images*", "exact", "alpha", "zeta", "*uniform noise*", "broken",
    ]  # fmt: skip
    assert table[1] == ["exact", "3.50", "3.15 to 3.85", "a"]
    assert table[-1] == ["broken", "no metrics", "", ""]


def test_own_images_are_called_by_their_title():
    """What they are told of, `folder`, is the same for all of them."""
    named = {**REFERENCE, "dataset": "mnist"}
    assert tables.measured(named, "digits").startswith("mnist: ")
    for dataset in ("folder", "unpaired-folder"):
        told = tables.to_markdown(ROWS, {**REFERENCE, "dataset": dataset}, "my-photos")
        assert told.startswith("# Comparison\n\nmy-photos: ")


def test_a_table_lists_who_has_the_value_and_names_the_others_below():
    found = page()
    assert names(found, LIKELIHOOD) == ["exact", "zeta", "*PNG*", "broken"]
    assert "\nn/a for alpha.\n" in body(found, LIKELIHOOD)
    assert names(found, RECONSTRUCTION) == ["zeta", "*PCA-32*", "broken"]
    assert "\nn/a for alpha, exact.\n" in body(found, RECONSTRUCTION)
    assert "n/a for" not in body(found, SAMPLES)


def test_a_question_that_nobody_answers_is_not_asked():
    assert f"## {LABELS}" not in page()
    without = [row for row in ROWS if row.get("reconstruction_mse") is None]
    assert f"## {RECONSTRUCTION}" not in page(without)
    assert f"## {COST}" not in page([row for row in ROWS if row["kind"] == "reference"])


def test_higher_is_better_where_the_question_says_so():
    rows = [
        model("low", label_accuracy=0.5, label_accuracy_real=0.96),
        model("high", label_accuracy=0.98, label_accuracy_real=0.96),
        model("middle", label_accuracy=0.75, label_accuracy_real=0.96),
        model("unasked"),
        MODELS[2],
    ]
    assert whole(page(rows), LABELS) == [
        ["model", "label accuracy ↑"],
        ["high", "0.980"],
        ["*real images*", "*0.960*"],
        ["middle", "0.750"],
        ["low", "0.500"],
        ["broken", "no metrics"],
    ]
    assert "n/a for unasked." in body(page(rows), LABELS)


def test_equal_values_keep_the_order_of_params():
    rows = [model(name, label_accuracy=0.5, **fid(2.0)) for name in ("b", "a", "c")]
    assert names(page(rows), SAMPLES) == names(page(rows), LABELS) == ["b", "a", "c"]


def test_another_protocol_is_listed_apart_and_never_ranked():
    markdown = page()
    assert "stranger" not in markdown.split(f"## {OTHERS}")[0]
    assert section(markdown, OTHERS) == [["stranger", "n_samples 10, not 20", "0.10"]]
    assert "stranger" not in tables.summary(ROWS)


def test_one_protocol_needs_no_such_list():
    same = [row for row in ROWS if row["model"] != "stranger"]
    assert "Not comparable" not in page(same)


def test_a_model_may_bear_the_name_of_a_reference_row():
    rows = [model("noise", **fid(5.0)), *REFERENCES]
    assert [[row[0], row[3]] for row in section(page(rows), SAMPLES)] == [
        ["*real training images*", ""], ["noise", "a"], ["*uniform noise*", ""],
    ]  # fmt: skip


def test_failed_models_are_named_first():
    assert "**No metrics**, since they failed or were not run: broken." in page().split("## ")[0]


# --- ties ----------------------------------------------------------------------------------------


def test_ties_are_marked_and_references_have_none():
    table = {row[0]: row[3] for row in section(page(), SAMPLES)}
    assert table["exact"] == "a"
    assert table["alpha"] == "a b"
    assert table["zeta"] == "b"
    assert table["*real training images*"] == table["*uniform noise*"] == ""


def test_ties_are_by_intervals_over_trainings_where_there_are_some():
    near = [
        model("zeta", **fid(6.0), fid_trained_low=5.9, fid_trained_high=6.1),
        model("alpha", **fid(5.8), fid_trained_low=5.7, fid_trained_high=5.8),
    ]
    table = section(tables.to_markdown(near, REFERENCE, "toys"), SAMPLES)
    assert [(row[0], row[3], row[4]) for row in table] == [
        ("alpha", "5.70 to 5.80", "a"),
        ("zeta", "5.90 to 6.10", "b"),
    ]


def test_likelihoods_tie_by_intervals_and_are_not_marked_without():
    rows = [
        model("x", **bits(1.20, "exact"), bits_per_dim_trained_low=1.1,
              bits_per_dim_trained_high=1.24, bits_per_dim_behind=0.02,
              bits_per_dim_behind_stderr=0.003),
        model("y", **bits(1.22, "elbo"), bits_per_dim_trained_low=1.2,
              bits_per_dim_trained_high=1.3),
        model("z", **bits(1.25, "exact")),
    ]  # fmt: skip
    table = section(tables.to_markdown(rows, REFERENCE, "toys"), LIKELIHOOD)
    assert [row[5] for row in table] == ["a", "a", ""]
    assert [row[3] for row in table] == ["0.020 ± 0.003", "n/a", "n/a"]


def test_old_error_bars_are_named():
    rows = [model("zeta", **fid(1.0), thorough_is_of="other parameters")]
    (line,) = tables.problems(rows, HOME)
    assert "metrics/toy/thorough/zeta.json is of other parameters" in line


# --- cells and columns ---------------------------------------------------------------------------


def test_likelihoods_show_error_and_bound():
    assert whole(page(), LIKELIHOOD) == [
        ["model", "bits/dim ↓", "bound", "nats/image ↓"],
        ["exact", "0.900 ± 0.013", "exact", "680.0"],
        ["zeta", "1.250 ± 0.013", "elbo", "680.0"],
        ["*PNG*", "*1.800*", "*code length*", "*966.0*"],
        ["broken", "no metrics", "", ""],
    ]
    assert "upper bounds on the true bits/dim" in page()


def test_columns_come_with_the_first_value_and_so_do_their_notes():
    iwae = {"iwae_bits_per_dim": 1.2, "iwae_bits_per_dim_stderr": 0.0124, "iwae_samples": 64}
    given = {"bits_per_dim_given_label": 1.1, "bits_per_dim_given_label_stderr": 0.0125}
    plain, tight = model("plain", **bits(1.3, "elbo")), model("tight", **bits(1.25, "elbo"), **iwae)
    told = model("told", **bits(1.4, "elbo"), **given)
    assert "IWAE" not in page([plain])
    assert "label" not in body(page([plain, tight]), LIKELIHOOD)
    found = body(page([plain, tight]), LIKELIHOOD)
    assert whole(page([plain, tight]), LIKELIHOOD) == [
        ["model", "bits/dim ↓", "bound", "nats/image ↓", "IWAE ↓"],
        ["tight", "1.250 ± 0.013", "elbo", "680.0", "1.200 ± 0.012 (K = 64)"],
        ["plain", "1.300 ± 0.013", "elbo", "680.0", "n/a"],
    ]
    assert "IWAE: " in found
    table = whole(page([plain, tight, told]), LIKELIHOOD)
    assert table[0][-2:] == ["IWAE ↓", "given label ↓"]
    # What is told the label, or bounded more tightly, does not rank.
    assert [row[0] for row in table[1:]] == ["tight", "plain", "told"]
    assert table[3][-2:] == ["n/a", "1.100 ± 0.013"]
    assert "marginal over all labels" in body(page([plain, told]), LIKELIHOOD)


def test_models_that_are_told_their_labels_are_marked_among_the_samples():
    rows = [model("free", **fid(4.0)), model("told", **fid(3.0), label_accuracy=0.9)]
    table = whole(page(rows), SAMPLES)
    assert table[0][-1] == "labels"
    assert [row[-1] for row in table[1:]] == ["given", ""]
    assert "Where labels are given" in body(page(rows), SAMPLES)
    assert "labels" not in whole(page(), SAMPLES)[0]


def test_label_gain_stands_beside_label_accuracy():
    gain = {"label_gain_nats": 41.23, "label_gain_nats_stderr": 1.07}
    rows = [model("cgan", label_accuracy=0.9), model("cvae", label_accuracy=0.8, **gain)]
    table = whole(page(rows), LABELS)
    assert table[0][-1] == "label gain (nats) ↑"
    assert [row[-1] for row in table[1:]] == ["n/a", "41.2 ± 1.1"]


TRANSLATED = {
    "cycle_mse": 0.004,
    "translation_fid_ab": 9.8,
    "translation_fid_ab_floor": 0.9,
    "translation_fid_ba": 12.4,
    "translation_fid_ba_floor": 1.0,
    "translation_fid_identity": 88.2,
    "translation_label_accuracy": 0.931,
    "translation_label_accuracy_identity": 0.41,
    "translation_label_accuracy_real": 0.966,
    "translation_mse": 0.0124,
    "translation_mse_ab": 0.013,
    "translation_mse_ba": 0.0118,
    "translation_mse_identity": 0.151,
    "translation_n": 500,
}


def test_translation_stands_between_doing_nothing_and_real_images():
    rows = [model("cyclegan", fid=None, **TRANSLATED), *ROWS]
    found = page(rows)
    assert whole(found, TRANSLATION) == [
        ["model", "FID A to B ↓", "FID B to A ↓", "images", "MSE ↓", "label accuracy ↑",
         "cycle MSE ↓"],
        ["*real images of the domain*", "*0.90*", "*1.00*", "*500*", "*n/a*", "*0.966*", "*n/a*"],
        ["cyclegan", "9.80", "12.40", "500", "0.01240", "0.931", "0.00400"],
        ["*images left as they are*", "*88.20*", "*88.20*", "*500*", "*0.15100*", "*0.410*",
         "*n/a*"],
        ["broken", "no metrics", "", "", "", "", ""],
    ]  # fmt: skip
    assert "n/a for zeta, alpha, exact." in body(found, TRANSLATION)
    assert "n/a for cyclegan." in body(found, SAMPLES)
    assert OWN not in found
    assert TRANSLATION not in page()


def test_translation_without_a_truth_shows_what_needs_none():
    unknown = {key: None for key in TRANSLATED if "mse" in key or "label" in key}
    rows = [model("cyclegan", **{**TRANSLATED, **unknown, "cycle_mse": 0.004})]
    assert whole(page(rows), TRANSLATION)[0] == [
        "model", "FID A to B ↓", "FID B to A ↓", "images", "cycle MSE ↓",
    ]  # fmt: skip
    assert "counterparts" not in page(rows)


def test_models_share_a_reference_row_if_they_agree_on_it():
    better = {**TRANSLATED, "translation_fid_ab": 5.0}
    rows = [model("one", **TRANSLATED), model("two", **better)]
    assert names(page(rows), TRANSLATION) == [
        "*real images of the domain*", "two", "one", "*images left as they are*",
    ]  # fmt: skip
    stranger = {**TRANSLATED, "translation_fid_identity": 3.0}
    rows += [model("stranger", **stranger, status=OTHER)]
    assert len(names(page(rows), TRANSLATION)) == 4


def test_reconstructions():
    assert section(page(), RECONSTRUCTION)[:2] == [
        ["zeta", "0.00710", "21.9", "posterior mean"],
        ["*PCA-32*", "*0.01600*", "*21.9*", "*posterior mean*"],
    ]


def test_cost():
    table = section(page(), COST)
    assert table[0] == ["zeta", "1,000", "50,000", "vae"]
    assert [row[0] for row in table] == ["zeta", "exact", "alpha", "broken"]


def test_operations_are_of_the_whole_training_and_of_one_sample():
    flops = {"training_flops_per_image": 173_000_000, "sampling_flops": 1_836_500_000}
    rows = [
        model("ddpm", images_seen=52000, network_evaluations=32, **flops),
        model("short", parameters=2000, training_flops_per_image=None),
    ]
    table = whole(page(rows), COST)
    assert table[0][3:6] == ["training TFLOP ↓", "MFLOP per sample ↓", "evaluations per sample ↓"]
    assert table[1][3:6] == ["9.00", "1,836.5", "32"]
    assert table[2][3:6] == ["n/a", "n/a", "n/a"]


def test_coverage_ranks_who_covers_and_shows_what_fools():
    rows = [
        model("some", coverage=0.4, coverage_min=0.3, coverage_max=0.5, precision=0.9),
        model("most", coverage=0.8, coverage_min=0.7, coverage_max=0.9, precision=0.5),
    ]
    table = whole(page(rows), "Do the samples cover the real images?")
    assert table[0] == ["model", "coverage ↑", "over judges", "precision ↑"]
    assert table[1:] == [
        ["most", "0.800", "0.700 to 0.900", "0.500"],
        ["some", "0.400", "0.300 to 0.500", "0.900"],
    ]


def test_authenticity_stands_beside_that_of_real_images():
    real = {"authenticity_real": 0.556, "authenticity_pixels_real": 0.575}
    rows = [
        model("copying", authenticity=0.1, authenticity_pixels=0.2, **real),
        model("free", authenticity=0.9, authenticity_pixels=0.8, **real),
    ]
    assert section(page(rows), "Are the samples copies of training images?") == [
        ["free", "0.900", "0.800"],
        ["*real images of the evaluated split*", "*0.556*", "*0.575*"],
        ["copying", "0.100", "0.200"],
    ]


def test_the_worst_class_is_named():
    rows = [
        model(
            "cgan",
            label_accuracy=0.9,
            class_fid=5.681,
            class_fid_max=7.5,
            class_fid_worst="class 3",
        )
    ]
    table = whole(page(rows), LABELS)
    assert table[0] == ["model", "label accuracy ↑", "FID within classes ↓", "worst class ↓"]
    assert table[1] == ["cgan", "0.900", "5.68", "7.50 (class 3)"]


# --- what one model alone has --------------------------------------------------------------------


def test_facts_stand_below_the_table_and_mark_the_model():
    rows = [
        model("ae", "ae", **fid(4.0), **decoded(0.01), latent_density="one Gaussian"),
        model("zeta", **fid(5.0), **decoded(0.02)),
    ]
    found = page(rows)
    assert names(found, SAMPLES) == ["ae †", "zeta"]
    assert "\n† ae: latent density: one Gaussian.\n" in body(found, SAMPLES)
    # Once is enough.
    assert names(found, RECONSTRUCTION) == ["ae", "zeta"]
    assert found.count("one Gaussian") == 1


def test_facts_of_a_model_without_samples_stand_where_it_is_first_listed():
    rows = [model("codes", **decoded(0.01), code="a grid", size="8 numbers"), *ROWS]
    found = page(rows)
    assert "†" not in body(found, SAMPLES)
    assert "\n† codes: code: a grid; size: 8 numbers.\n" in body(found, RECONSTRUCTION)


def test_own_errors_rank_nothing_and_summands_of_likelihoods_are_no_errors():
    rows = [
        model("began", **fid(4.0), discriminator_error=0.0212345),
        model("vae", **fid(5.0), likelihood_kl_nats=30.5, reference_seed=3, label_accuracy=None),
    ]
    found = tables.to_markdown(rows, {**REFERENCE, "reference_seed": 3}, "toys")
    assert section(found, OWN) == [["began", "discriminator error", "0.021234"]]
    assert OWN not in page()
    assert "30.5" not in found


def test_own_errors_of_other_protocols_are_not_shown():
    rows = [model("began", status=OTHER, discriminator_error=0.02), *ROWS]
    assert OWN not in page(rows)


# --- the terminal --------------------------------------------------------------------------------


def test_the_summary_is_short_and_plain():
    lines = tables.summary(ROWS).splitlines()
    assert lines[0].split() == ["model", "FID", "tie", "bits/dim", "bound", "MSE"]
    found = [line.split()[0] for line in lines[1:]]
    assert found == ["(real)", "exact", "alpha", "zeta", "(noise)", "(png)", "(pca_32)", "broken"]
    assert lines[2].split() == ["exact", "3.50", "a", "0.900", "exact", "-"]
    assert lines[4].split() == ["zeta", "6.00", "b", "1.250", "elbo", "0.00710"]
    assert lines[-1].split() == ["broken", "no", "metrics"]
    assert tables.summary(ROWS).isascii()


def test_the_summary_drops_what_nobody_has():
    rows = [model("alpha", **fid(5.0)), MODELS[2]]
    assert tables.summary(rows).splitlines()[0].split() == ["model", "FID", "tie"]


def test_problems_name_the_models_that_are_not_ranked():
    assert tables.problems(ROWS, HOME) == [
        "warning: broken is not ranked: it has no metrics: it failed, or was not run",
        "warning: stranger is not ranked: it was judged by another protocol",
    ]


def test_judges_that_do_not_judge_are_told_above_all_tables():
    blind = {**REFERENCE, "judges": verdict("they see no blur", "they disagree")}
    told = tables.to_markdown(ROWS, blind, "toys")
    said = "rank nothing, because they see no blur; they disagree."
    assert said in told and told.index(said) < told.index("## ")
    assert "another split" not in told


def test_a_split_of_other_images_is_told():
    [said] = tables.cautions({**REFERENCE, "judges": verdict(shift=6.7)}, [])
    assert "The test split shows other images" in said and "6.7 times" in said


def test_good_judges_and_unknown_ones_need_no_words():
    assert tables.cautions({**REFERENCE, "judges": verdict()}, MODELS) == []
    assert tables.cautions(REFERENCE, MODELS) == []


def test_a_second_opinion_that_ranks_nothing_is_told():
    there = {**REFERENCE, "judges": verdict(second=["they see no blur"])}
    assert tables.cautions(there, []) == ["The second FIDs rank nothing, because they see no blur."]


def test_few_images_are_told_with_their_floor():
    [said] = tables.cautions({**REFERENCE, "judges": verdict(floor_n=40)}, [])
    assert "FIDs are of 40 images" in said and "have 0.40 to 0.60 themselves" in said


def test_both_kinds_of_judges_have_a_column_and_are_named():
    features = {"second_features": "label-free-64x3"}
    second = {"second_fid": 7.25, "second_fid_min": 7.0, "second_fid_max": 8.0}
    text = tables.to_markdown(
        [model("one", **fid(2.0), **second)], {**REFERENCE, **features}, "toy"
    )
    assert "FID on `judge-64x3`, second FID on `label-free-64x3`, protocol" in text
    assert "| second FID ↓ |" in text and "| 7.25 |" in text
    assert "second FID" not in tables.to_markdown([model("one", **fid(2.0))], REFERENCE, "toy")
