import pytest
from compared import HOME, rewrite
from compared import project as project

from pipeline import __main__ as cli
from pipeline.comparison import data_sets
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from stages import compare

OTHER = paths.Results("other")


@pytest.fixture
def two(project, capsys):
    """Results of the present data set, and of another one with its params.yaml."""
    raw = paths.PARAMS.read_text()
    sections = "train: {}\nsample: {}\nevaluate: {}\n"
    paths.PARAMS.write_text(raw + sections)
    compare.main()
    OTHER.folder.mkdir()
    for name in ("comparison.csv", "reference.json"):
        (OTHER.folder / name).write_bytes((HOME.folder / name).read_bytes())
    OTHER.params.write_text("data: {name: toy, title: other} # theirs\n")
    capsys.readouterr()


def test_what_has_a_comparison_is_listed_with_its_best(two):
    paths.Results("unfinished").models.mkdir(parents=True)
    assert [home.title for home in data_sets.homes()] == ["other", "toy"]
    found = data_sets.facts(HOME)
    assert (found["title"], found["dataset"], found["models"]) == ("toy", "toy", 5)
    assert (found["best"], found["told"]) == ("exact", "FID 3.50"), "of the common protocol"
    HOME.comparison_csv.write_text("kind,model,status,fid\nmodel,ae,no metrics,\n")
    assert data_sets.facts(HOME)["best"] is None


def judged(kind, ranks):
    return {"kind": kind, "accuracy": [0.9], "ranks": ranks}


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (True, False, ("exact", "FID 3.50")),
        (False, True, ("bound", "second FID 1.25")),
        (False, False, (None, None)),
    ],
)
def test_no_best_is_named_by_judges_that_rank_nothing(two, monkeypatch, first, second, told):
    kinds = [judged("classifier", first), judged("label_free", second)]
    reference = {"dataset": "toy", "judges": {"ranks": first, "kinds": kinds}}
    monkeypatch.setattr(data_sets.results, "of_references", lambda path: reference)
    OTHER.comparison_csv.write_text(
        "kind,model,status,fid,second_fid\nmodel,exact,ok,3.5,2\nmodel,bound,ok,4,1.25\n"
    )
    found = data_sets.facts(OTHER)
    assert (found["best"], found["told"]) == told


@pytest.mark.parametrize("content", [b"kind\nmodel\n", b"kind,status,fid\nmodel,ok,x", b"\xff"])
def test_a_table_that_is_none_is_one_line(two, content):
    OTHER.comparison_csv.write_bytes(content)
    with pytest.raises(PipelineError, match=r"^metrics/other/comparison\.csv: no table"):
        data_sets.facts(OTHER)


def test_a_switch_keeps_the_edits_of_either(two, capsys):
    mine = paths.PARAMS.read_text() + "# a comment of mine\n"
    paths.PARAMS.write_text(mine)
    assert cli.main(["datasets", "--switch", "other"]) == 0
    assert "*   other" in capsys.readouterr().out
    assert paths.PARAMS.read_text().endswith("# theirs\n")
    assert HOME.params.read_text() == mine
    assert data_sets.switch("toy") == "other"
    assert paths.PARAMS.read_text() == mine
    assert data_sets.switch("toy") == "toy", "which it is already"


@pytest.mark.parametrize(
    ("title", "content", "told"),
    [
        ("othr", ..., "--switch: unknown data set 'othr'; did you mean 'other'?"),
        ("../work", ..., "--switch: unknown data set '../work'"),
        ("other", None, "metrics/other/params.yaml: no such file"),
        ("other", "data: {title: toy}", "metrics/other/params.yaml: data.title: should be other"),
        ("other", "a: [", "metrics/other/params.yaml:2:1: not valid YAML"),
        ("other", "data: {}", "metrics/other/params.yaml: data.title: missing"),
    ],
)
def test_a_switch_that_cannot_be_changes_nothing(two, title, content, told):
    if content is None:
        OTHER.params.unlink()
    elif content is not ...:
        OTHER.params.write_text(content)
    before = paths.PARAMS.read_text()
    with pytest.raises(PipelineError) as caught:
        data_sets.switch(title)
    assert str(caught.value).startswith(told) and len(str(caught.value).splitlines()) == 1
    assert paths.PARAMS.read_text() == before and not HOME.params.exists()


def test_without_results_of_the_present_one_that_is_said(two, capsys):
    paths.PARAMS.write_text("data: {title: new}\n")
    assert cli.main(["datasets"]) == 0
    assert "params.yaml is of new, which has no results here" in capsys.readouterr().out


def test_damaged_rows_are_named(two):
    rewrite(OTHER.reference, dataset=5)
    with pytest.raises(PipelineError, match=r"^metrics/other/reference\.json: dataset = 5"):
        data_sets.facts(OTHER)
    assert params.results({"data": {"title": "other"}}).title == "other"
