"""What the page for people asks of all rows (`collect`), and in which columns it answers."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.comparison.collect import Row, conditional
from pipeline.comparison.ties import TIE_FACTOR

NOTHING = "n/a"


@dataclass(frozen=True)
class Column:
    """A column of a table for people: its title, and the text of a row's cell.

    ``note`` says how to read it, and stands below the tables that have it.
    """

    title: str
    cell: Callable[[Row], str]
    right: bool = True
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """A reference row that the models' own metrics hold, such as what doing nothing scores.

    ``sources`` names, for each key of the row, the key of the metrics that has its value.
    """

    label: str
    sources: dict[str, str]


@dataclass(frozen=True)
class Question:
    """A table: what it answers, which key ranks it, and how to read it.

    The smallest value comes first, or the largest if ``descending``.
    """

    title: str
    key: str
    columns: tuple[Column, ...]
    note: str
    descending: bool = False
    scales: tuple[Scale, ...] = ()


def number(key: str, form: str) -> Callable[[Row], str]:
    """A cell that shows ``key`` in a format such as ``.2f``, ± its standard error if it has one.

    Where the value is None the cell is `NOTHING`.
    """

    def cell(row: Row) -> str:
        if row.get(key) is None:
            return NOTHING
        stderr = row.get(f"{key}_stderr")
        return format(row[key], form) + (f" ± {stderr:{form}}" if stderr else "")

    return cell


def text(key: str) -> Callable[[Row], str]:
    """A cell that shows ``key`` as it is, and `NOTHING` where it is None."""
    return lambda row: NOTHING if row.get(key) is None else str(row[key])


def span(key: str, form: str) -> Callable[[Row], str]:
    """A cell with the lowest and the highest value that a judge gave."""

    def cell(row: Row) -> str:
        low, high = row.get(f"{key}_min"), row.get(f"{key}_max")
        return NOTHING if low is None or high is None else f"{low:{form}} to {high:{form}}"

    return cell


def trained(key: str, form: str) -> Callable[[Row], str]:
    """A cell with the interval of the mean over trainings."""

    def cell(row: Row) -> str:
        low, high = row.get(f"{key}_trained_low"), row.get(f"{key}_trained_high")
        return NOTHING if low is None or high is None else f"{low:{form}} to {high:{form}}"

    return cell


def scaled(key: str, factor: float, form: str) -> Callable[[Row], str]:
    """A cell that shows ``factor`` times ``key``."""
    return lambda row: NOTHING if row.get(key) is None else format(factor * row[key], form)


def percent(key: str) -> Callable[[Row], str]:
    """A cell that shows a share as a percentage."""
    return lambda row: NOTHING if row.get(key) is None else f"{100 * row[key]:.0f} %"


def iwae(row: Row) -> str:
    """The importance-weighted bound in bits/dim, and from how many draws."""
    shown = number("iwae_bits_per_dim", ".3f")(row)
    return shown if shown == NOTHING else f"{shown} (K = {row.get('iwae_samples')})"


def told(row: Row) -> str:
    """Whether a model is given the classes that it draws."""
    return "given" if conditional(row) else ""


def training_tflop(row: Row) -> str:
    """Operations of the whole training, in units of 10^12."""
    if row.get("training_flops_per_image") is None:
        return NOTHING
    return format(row["training_flops_per_image"] * row["images_seen"] / 1e12, ".2f")


def worst_class(row: Row) -> str:
    """The class with the highest FID within itself, and that FID."""
    if row.get("class_fid_max") is None:
        return NOTHING
    return f"{row['class_fid_max']:.2f} ({row['class_fid_worst']})"


FID = Column("FID (judge) ↓", number("fid", ".2f"))
TIE = Column("tie", text("tie"), right=False)
BITS = Column("bits/dim ↓", number("bits_per_dim", ".3f"))
BOUND = Column("bound", text("likelihood_bound"), right=False)
MSE = Column("MSE ↓", number("reconstruction_mse", ".5f"))
TRANSLATED = (
    Column("FID A to B ↓", number("translation_fid_ab", ".2f")),
    Column("FID B to A ↓", number("translation_fid_ba", ".2f")),
)
ACCURACY = Column("label accuracy ↑", number("label_accuracy", ".3f"))

SECOND = Column(
    "second FID ↓",
    number("second_fid", ".2f"),
    note="Second FID: by judges of the other kind, which are blind to other things.",
)
KID = Column(
    "KID ↓",
    number("kid", ".3f"),
    note="KID: kernel distance on the same features, unbiased, so that it may be below 0.",
)
COVERAGE = Column("coverage ↑", number("coverage", ".3f"))
TIE_NOTE = (
    "Models that share a letter are a tie: their 95 % intervals over trainings, each with samples "
    "of its own, overlap (`make thorough`). Of a single training nothing is known, so that its "
    f"FID ties with others within a factor of {TIE_FACTOR}."
)


def _outside(name: str, title: str, note: str) -> Question:
    """Of a network that knows other images than these (`pipeline.evaluation.outside`)."""
    return Question(
        f"What do {title}'s features say?",
        f"{name}_fid",
        (
            Column(f"FID ({title}) ↓", number(f"{name}_fid", ".2f")),
            Column(f"KID ({title}) ↓", number(f"{name}_kid", ".5f")),
            Column("mind", text(f"{name}_warnings"), right=False),
        ),
        note,
        scales=(
            Scale(
                "real training images",
                {f"{name}_{key}": f"{name}_{key}_real" for key in ("fid", "kid")},
            ),
        ),
    )


QUESTIONS = (
    Question(
        "How good are the samples?",
        "fid",
        (
            FID,
            Column("over judges", span("fid", ".2f")),
            Column("over trainings", trained("fid", ".2f")),
            SECOND,
            KID,
            TIE,
            Column(
                "labels",
                told,
                right=False,
                note="Where labels are given, the model is told which class to draw, in the shares "
                "that classes have among the training images; the others have to get them right.",
            ),
        ),
        "FID (judge): lower is better. It is measured on the features of the pipeline's own "
        "judges and cannot be compared with FIDs on Inception features. " + TIE_NOTE,
    ),
    Question(
        "Do the samples cover the real images?",
        "coverage",
        (
            COVERAGE,
            Column("over judges", span("coverage", ".3f")),
            Column("recall ↑", number("recall", ".3f")),
            Column("precision ↑", number("precision", ".3f")),
            Column("density ↑", number("density", ".2f")),
        ),
        "Coverage: the share of real images with a sample nearer to them than their fifth "
        "neighbour among the real ones; higher is better. Recall: the share of real images that "
        "are as near to a sample as its fifth neighbour among the samples. Precision and density: "
        "how many samples are as near to a real image, and to how many (1 is what real images "
        "have); both are fooled by samples that are all alike, in the middle of the real ones.",
        descending=True,
    ),
    Question(
        "Are the samples copies of training images?",
        "authenticity",
        (
            Column("authenticity ↑", number("authenticity", ".3f")),
            Column("on pixels ↑", number("authenticity_pixels", ".3f")),
        ),
        "Authenticity: the share of samples that are farther from their nearest training image "
        "than that is from its own nearest one, on the judges' features and on pixels. What copies "
        "has 0. Real images that nobody trained on do not have 1 either: only what is far below "
        "them copies, and what is above them is off the distribution more likely than original.",
        descending=True,
        scales=(
            Scale(
                "real images of the evaluated split",
                {
                    "authenticity": "authenticity_real",
                    "authenticity_pixels": "authenticity_pixels_real",
                },
            ),
        ),
    ),
    Question(
        "Do the samples show the class that was asked for?",
        "label_accuracy",
        (
            ACCURACY,
            Column(
                "FID within classes ↓",
                number("class_fid", ".2f"),
                note="FID within classes: between samples of a class and real images of it, the "
                "mean over classes. It is of few images each, which makes it high: read it by "
                "the real images' value and by no other table.",
            ),
            Column("worst class ↓", worst_class),
            Column(
                "label gain (nats) ↑",
                number("label_gain_nats", ".1f"),
                note="Label gain: how much more probable a real image is under its own label than "
                "under the next class, ± standard error over the images; at 0 the model ignores "
                "its labels.",
            ),
        ),
        "Label accuracy: higher is better. It is the share of samples in which the judges see the "
        "class that was asked for, and of real images in which they see their label. A model above "
        "these draws images that are easier to tell than real ones.",
        descending=True,
        scales=(
            Scale(
                "real images",
                {"label_accuracy": "label_accuracy_real", "class_fid": "class_fid_real"},
            ),
        ),
    ),
    Question(
        "How well is an unseen image predicted?",
        "bits_per_dim",
        (
            BITS,
            BOUND,
            Column(
                "behind the next better",
                number("bits_per_dim_behind", ".3f"),
                note="Behind the next better: the mean difference over the same images, ± the "
                "standard error of that, which is small since images are hard for all alike.",
            ),
            Column("over trainings", trained("bits_per_dim", ".3f")),
            Column(
                "tie",
                text("bits_tie"),
                right=False,
                note="Models that share a letter are a tie: their 95 % intervals over trainings "
                "overlap.",
            ),
            Column("nats/image ↓", number("nats_per_image", ".1f")),
            Column(
                "IWAE ↓",
                iwae,
                note="IWAE: the same in bits/dim by the tighter bound of K importance-weighted "
                "draws; it ranks nothing.",
            ),
            Column(
                "given label ↓",
                number("bits_per_dim_given_label", ".3f"),
                note="Given label: bits/dim of an image whose label is told. Models that take "
                "labels are ranked by the marginal over all labels, which is told nothing, as the "
                "others are.",
            ),
        ),
        "bits/dim: lower is better, ± standard error over the images. `exact` is the value "
        "itself; `elbo` and `vlb` are upper bounds on the true bits/dim, which may be lower; "
        "`code length` is the size of a file.",
    ),
    Question(
        "How much of an image survives encoding?",
        "reconstruction_mse",
        (
            MSE,
            Column("over trainings", trained("reconstruction_mse", ".5f")),
            Column("PSNR (dB) ↑", number("reconstruction_psnr", ".1f")),
            Column("SSIM ↑", number("reconstruction_ssim", ".3f")),
            Column("decoded from", text("reconstruction_kind"), right=False),
        ),
        "MSE: lower is better, white is 1. PSNR and SSIM: higher is better. Codes of different "
        "sizes and kinds are not alike, so this ranks reconstructions and not models.",
    ),
    Question(
        "Can models without an encoder make an image that they are shown?",
        "inversion_mse",
        (
            Column("MSE ↓", number("inversion_mse", ".5f")),
            Column("PSNR (dB) ↑", number("inversion_psnr", ".1f")),
            Column("SSIM ↑", number("inversion_ssim", ".3f")),
            Column("images", number("inversion_n", ",")),
            Column("found by", text("inversion_kind"), right=False),
        ),
        "What a generator can make at all of some test images, by a search among its noise "
        "(`make thorough`). A search may miss what is there, finds what is never drawn, and takes "
        "hundreds of evaluations where an encoder takes one: nothing here compares with the "
        "table of reconstructions.",
    ),
    Question(
        "How well are images translated?",
        "translation_fid_ab",
        (
            *TRANSLATED,
            Column("images", number("translation_n", ",")),
            Column(
                "MSE ↓",
                number("translation_mse", ".5f"),
                note="MSE: against the true counterparts, which training never sees, mean of both "
                "directions.",
            ),
            Column(
                "label accuracy ↑",
                number("translation_label_accuracy", ".3f"),
                note="Label accuracy: how often the judges see the original's class in what was "
                "translated from B to A.",
            ),
            Column("cycle MSE ↓", number("cycle_mse", ".5f")),
        ),
        "FID (judge) of translated images against real ones of the domain where they should be: "
        "lower is better. It is of fewer images than that of samples, so the two do not compare. "
        "Cycle MSE: of images translated there and back; images left as they are have 0, so it "
        "says nothing by itself.",
        scales=(
            Scale(
                "real images of the domain",
                {
                    "translation_fid_ab": "translation_fid_ab_floor",
                    "translation_fid_ba": "translation_fid_ba_floor",
                    "translation_n": "translation_n",
                    "translation_label_accuracy": "translation_label_accuracy_real",
                },
            ),
            Scale(
                "images left as they are",
                {
                    "translation_fid_ab": "translation_fid_identity",
                    "translation_fid_ba": "translation_fid_identity",
                    "translation_n": "translation_n",
                    "translation_mse": "translation_mse_identity",
                    "translation_label_accuracy": "translation_label_accuracy_identity",
                },
            ),
        ),
    ),
    _outside(
        "inception",
        "Inception",
        "The figures that others publish, at this number of images, which is far below their "
        "50,000: they compare the rows of this table, and with real images in the first of them.",
    ),
    _outside(
        "imagenet",
        "EfficientNet-Lite0",
        "What a network sees that was trained on photos of ImageNet, and on none of these images: "
        "an opinion from outside, which is at home on photos and not on digits. Compare with real "
        "images in the first row, which is the floor at this number of images.",
    ),
    Question(
        "Would another training say the same?",
        "fid_trained_mean",
        (
            Column("FID, mean ↓", number("fid_trained_mean", ".2f")),
            Column("95 % interval", trained("fid", ".2f")),
            Column("± over trainings", percent("fid_trained_sd")),
            Column("± over sample sets", percent("fid_sample_sets_sd")),
            Column("coverage, interval ↑", trained("coverage", ".3f")),
            Column("KID, interval ↓", trained("kid", ".3f")),
            Column("trainings", number("trainings", ",")),
            Column("sample sets", number("sample_sets", ",")),
        ),
        "From `make thorough`: the geometric mean of FID over trainings that differ in their seed "
        "alone, each with samples of its own, and the interval of that mean by Student's t. "
        "± are standard deviations of one FID: over trainings, and over sample sets of one "
        "training, which the former include. With few trainings the intervals are wide.",
    ),
    Question(
        "What did it cost?",
        "parameters",
        (
            Column("parameters ↓", number("parameters", ",")),
            Column("images seen ↓", number("images_seen", ",")),
            Column("training TFLOP ↓", training_tflop),
            Column("MFLOP per sample ↓", scaled("sampling_flops", 1e-6, ",.1f")),
            Column("evaluations per sample ↓", number("network_evaluations", ",")),
            Column("family", text("family"), right=False),
        ),
        "Images seen: training images, with repetition. TFLOP and MFLOP: 10^12 and 10^6 "
        "floating-point operations of matrix products, convolutions and recurrent layers, for the "
        "whole training and for one sample. Evaluations: how many times networks run one after "
        "the other for a sample. Time depends on the machine and is not in this table.",
    ),
)

LEADERS = (
    FID,
    TIE,
    SECOND,
    KID,
    COVERAGE,
    ACCURACY,
    BITS,
    BOUND,
    MSE,
    *TRANSLATED,
    Column("parameters ↓", number("parameters", ",")),
    Column("family", text("family"), right=False),
)
"""What the first table of the report shows of all rows."""

TERMINAL = (
    Column("FID", number("fid", ".2f")),
    Column("2nd FID", number("second_fid", ".2f")),
    TIE,
    # Without its standard error, whose sign is not ASCII.
    Column("bits/dim", lambda row: number("bits_per_dim", ".3f")(row).partition(" ")[0]),
    BOUND,
    Column("MSE", number("reconstruction_mse", ".5f")),
    Column("FID A-B", number("translation_fid_ab", ".2f")),
    Column("FID B-A", number("translation_fid_ba", ".2f")),
)
