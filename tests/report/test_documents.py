import json
import re
from pathlib import Path

import pytest

from pipeline import families
from pipeline.comparison import collect, recommendation
from pipeline.comparison.collect import FAILED, OK, OTHER
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.report import documents, published

HOME = paths.Results(documents.SHOWN)

ROOT = Path(__file__).parents[2]
MODELS, PUBLISHED, RESULTS = documents.DOCUMENTS[documents.RESULTS]
(LEADERS,) = documents.DOCUMENTS[documents.README]
SHARED = {"dataset": "toy", "protocol": "0123456789abcdef"}
REFERENCE = {
    **SHARED,
    "n_samples": 20,
    "n_reference": 20,
    "reference_split": "test",
    "fid_features": "judge-64x3",
    "rows": [],
}
DOCUMENTED = """Families of a kind (arXiv:1111.11111).

- first: Kingma & Welling 2014, "Auto-Encoding
  Variational Bayes", arXiv:1312.6114.
- second: van den Oord et al. 2016, "Pixels" (ICML), as analysed in Burgess et al. 2018,
  "Understanding disentangling", arXiv:1804.03599, with p(x|y) and ``beta`` of Xiong, Li & Yang
  2020, arXiv:2002.04745; see arXiv:2222.22222: the rest
  is prose.
- odd: a ``model`` without a paper, but see arXiv:3333.33333

- not an entry, but a list.
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with three models, of which one was run and one was run by another protocol."""
    monkeypatch.chdir(tmp_path)
    block = {"data": "processed", "network": {}, "sampling": {}, "scoring": {}}
    block |= {"training": {"images": 100}}
    models = {
        "vae": {"family": "vae", **block},
        "dcgan": {"family": "gan", **block},
        "cvae": {"family": "vae", **block, "network": {"conditional": True}},
    }
    paths.PARAMS.write_text(json.dumps({"data": {"title": HOME.title}, "models": models}))
    HOME.models.mkdir(parents=True)
    HOME.reference.write_text(json.dumps(REFERENCE))
    likely = {"bits_per_dim": 1.33888, "bits_per_dim_stderr": 0.01, "nats_per_image": 727.6}
    write("vae", family="vae", fid=15.658, likelihood_bound="elbo", label_accuracy=None, **likely)
    write("dcgan", family="gan", fid=7.333, protocol="another")
    HOME.comparison_md.write_text("# Comparison\n\n## Quality\n\n| a |\n\n## Cost\n")
    return tmp_path


def write(model, **metrics):
    judges = {"fid_min": metrics["fid"], "fid_max": metrics["fid"]}
    result = {**SHARED, "model": model, "reconstruction_mse": None, **judges, **metrics}
    HOME.model_metrics(model).write_text(json.dumps(result))


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """The project's folder, as if nothing but what is committed were there."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(paths, "SCORES", tmp_path)


def row(**values):
    return {"kind": "model", "status": OK, "model": "any", **values}


@pytest.mark.parametrize("path", documents.DOCUMENTS, ids=str)
def test_the_committed_pages_show_the_committed_results(committed, path):
    text = path.read_text(encoding="utf-8")
    assert documents.rendered(text, path) == text


def test_the_committed_pages_of_other_data_sets_answer_from_their_own_results(committed):
    for home in documents.data_sets.homes():
        if home.title == documents.SHOWN:
            continue
        page = (documents.OTHERS / f"{home.title}.md").read_text(encoding="utf-8")
        assert documents.other(home) == page
        rows = collect.committed_rows(
            params.read(home.params), collect.read_reference(home.reference)
        )
        (best, *_) = recommendation.answers(rows, collect.read_reference(home.reference))
        assert f"- **{best.purpose}**: {best.sentence()}" in page


def test_the_readmes_table_is_at_most_eight_columns_wide(committed):
    (head,) = [line for line in documents.leaders().splitlines() if line.startswith("| model")]
    assert head.count("|") - 1 <= 8


def test_the_readme_begins_with_what_the_table_supports(committed):
    reference = collect.read_reference(HOME.reference)
    rows = collect.project_rows(params.read(), reference)
    for answer in recommendation.answers(rows, reference):
        assert f"- **{answer.purpose.strip()}**: {answer.sentence()}" in documents.leaders()


def test_what_stands_around_the_tables_stays(project):
    page = (
        f"top\n{MODELS.begin}\nold\n{MODELS.end}\nbetween\n{PUBLISHED.begin}{PUBLISHED.end}\n"
        f"and\n{RESULTS.begin}{RESULTS.end}\nbottom\n"
    )
    text = documents.rendered(page, documents.RESULTS)
    assert text.startswith(f"top\n{MODELS.begin}\n\n| model | family |")
    assert f"|\n\n{PUBLISHED.end}\nand\n{RESULTS.begin}\n\n### Quality\n\n| a |\n\n### Cost" in text
    assert text.endswith(f"### Cost\n\n{RESULTS.end}\nbottom\n")
    assert documents.rendered(text, documents.RESULTS) == text


@pytest.mark.parametrize("part", [MODELS, PUBLISHED, RESULTS])
@pytest.mark.parametrize("marker", ["begin", "end"])
@pytest.mark.parametrize("change", ["", "{0}{0}"], ids=["missing", "twice"])
def test_a_missing_marker_is_told(project, part, marker, change):
    page = "".join(f"{each.begin}\n{each.end}\n" for each in (MODELS, PUBLISHED, RESULTS))
    name = getattr(part, marker)
    with pytest.raises(PipelineError, match=f"must hold .*{re.escape(name)}.* once each"):
        documents.rendered(page.replace(name, change.format(name)), documents.RESULTS)


def test_published_results_stand_beside_those_of_the_run():
    text = published.table({"vdm": "1.181 bits/dim", "flow": "not run", "other": "FID 1"})
    head, _, vdm, flow = text.splitlines()
    assert head == "| model | here | published | of | trained for | source |"
    assert vdm.startswith("| vdm | 1.181 bits/dim | ≤ 2.65 bits/dim | CIFAR-10")
    assert vdm.endswith("](https://arxiv.org/abs/2107.00630) |")
    assert flow.startswith("| flow | not run | 1.06 bits/dim (RealNVP)")


def test_markers_in_the_wrong_order_are_told(project):
    page = "".join(f"{each.end}{each.begin}" for each in (MODELS, PUBLISHED, RESULTS))
    with pytest.raises(PipelineError, match="must follow"):
        documents.rendered(page, documents.RESULTS)


def compared_elsewhere(title="mine"):
    """Another data set with results; its folder."""
    home = paths.Results(title)
    home.folder.mkdir()
    home.reference.write_text(json.dumps(REFERENCE | {"dataset": "photos"}))
    home.comparison_md.write_text("# Comparison\n\n## Quality\n\n| theirs |\n")
    home.comparison_csv.write_text("kind,model,status,fid\nmodel,vae,ok,7.25\nmodel,gan,ok,6.5\n")
    return home


def test_another_data_set_has_a_page_and_leaves_the_readme_alone(project, capsys):
    mine = compared_elsewhere()
    raw = params.read()
    paths.PARAMS.write_text(json.dumps(raw | {"data": {"title": "mine"}}))
    documents.README.write_text("as it is")
    documents.write()
    assert "README.md" in capsys.readouterr().out
    assert documents.README.read_text() == "as it is"
    assert sorted(path.name for path in documents.OTHERS.iterdir()) == ["README.md", "mine.md"]
    page = (documents.OTHERS / "mine.md").read_text()
    assert page.startswith("# mine\n") and page.endswith("## Quality\n\n| theirs |\n")
    assert "](" not in page
    index = (documents.OTHERS / "README.md").read_text()
    assert "| [mine](mine.md) | photos | 2 | gan | FID 6.50 |" in index
    assert "mnist-5k.md" not in index
    mine.samples_picture.write_bytes(b"")
    documents.write()
    (target,) = re.findall(r"\]\((.*)\)", (documents.OTHERS / "mine.md").read_text())
    assert (documents.OTHERS / target).resolve() == mine.samples_picture.resolve()


def test_without_results_there_is_nothing_to_write(project):
    page = "".join(f"{each.begin}{each.end}" for each in (MODELS, PUBLISHED, RESULTS))
    Path("README.md").write_text(f"{LEADERS.begin}{LEADERS.end}")
    Path("docs").mkdir()
    documents.RESULTS.write_text(page)
    reference = HOME.reference.read_text()
    HOME.reference.unlink()
    with pytest.raises(PipelineError, match="dvc repro reference"):
        documents.write()
    HOME.comparison_md.unlink()
    HOME.reference.write_text(reference)
    with pytest.raises(PipelineError, match=r"comparison\.md: no such file; run `make repro`"):
        documents.rendered(page, documents.RESULTS)
    assert documents.RESULTS.read_text() == page
    assert Path("README.md").read_text() == f"{LEADERS.begin}{LEADERS.end}"
    documents.RESULTS.unlink()
    with pytest.raises(PipelineError, match=r"docs/results\.md: no such file"):
        documents.write()
    Path("README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(PipelineError, match=r"README\.md: not UTF-8 text"):
        documents.write()


# --- the table of models -------------------------------------------------------------------------


def test_each_model_has_a_row_in_the_order_of_params(project):
    lines = documents.models().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["model", "family", "papers", "can", "result"]
    assert [row[0] for row in cells[2:]] == ["vae", "dcgan", "cvae"]
    vae, dcgan, cvae = cells[2:]
    assert vae[1] == "[vae](../pipeline/families/vae.py)"
    assert vae[2] == (
        "[Kingma & Welling 2014](https://arxiv.org/abs/1312.6114), "
        '"Auto-Encoding Variational Bayes"'
    )
    assert vae[3:] == ["samples, likelihood (elbo), reconstructs", "FID 15.66, 1.339 bits/dim"]
    assert dcgan[3:] == ["samples", "by another protocol: FID 7.33"]
    # What it can do is known although it was not run.
    assert cvae[3:] == ["samples by class, likelihood, reconstructs", "not run"]
    assert "Sohn et al. 2015" in cvae[2]


def test_a_models_family_is_that_of_params_whatever_its_results_say(project):
    write("dcgan", family="gone", fid=7.333)
    assert "| dcgan | [gan](../pipeline/families/gan.py) |" in documents.models()


def test_cells_cannot_break_the_table(project, monkeypatch):
    monkeypatch.setattr(documents, "documentation", lambda _: 'head\n\n- vae: p(x|y), "A|B".\n')
    assert r"| p(x\|y), " + r'"A\|B". |' in documents.models()


def test_papers_are_those_of_the_entry():
    assert documents.papers("first", DOCUMENTED) == (
        "[Kingma & Welling 2014](https://arxiv.org/abs/1312.6114), "
        '"Auto-Encoding Variational Bayes"'
    )


def test_further_papers_are_links_by_their_authors():
    assert documents.papers("second", DOCUMENTED) == (
        'van den Oord et al. 2016, "Pixels"; '
        "[Burgess et al. 2018](https://arxiv.org/abs/1804.03599); "
        "[Xiong, Li & Yang 2020](https://arxiv.org/abs/2002.04745); "
        "[arXiv:2222.22222](https://arxiv.org/abs/2222.22222)"
    )


def test_what_is_no_citation_is_shown_as_it_is():
    assert documents.papers("odd", DOCUMENTED) == (
        "a `model` without a paper, but see [arXiv:3333.33333](https://arxiv.org/abs/3333.33333)"
    )


def test_a_model_that_is_not_listed_has_the_first_line():
    assert documents.papers("unknown", DOCUMENTED) == (
        "Families of a kind ([arXiv:1111.11111](https://arxiv.org/abs/1111.11111))."
    )


@pytest.mark.parametrize("model", list(params.model_blocks(params.read(ROOT / "params.yaml"))))
def test_each_model_of_params_has_a_paper_of_its_own(model):
    family = params.read(ROOT / "params.yaml")["models"][model]["family"]
    found = documents.papers(model, documents.documentation(family))
    assert re.search(r'\d{4}(\]\(\S+\))?, "[^"]+"', found), found
    assert "arXiv:" not in found.replace("[arXiv:", "")


@pytest.mark.parametrize("family", families.names())
def test_documentation_is_that_of_the_familys_file(family):
    text = (ROOT / f"pipeline/families/{family}.py").read_text()
    assert text.startswith(f'"""{documents.documentation(family)}')


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"fid": 5.1049, "bits_per_dim": 2.44444}, "FID 5.10, 2.444 bits/dim"),
        ({"fid": 9.1, "reconstruction_mse": 0.00741}, "FID 9.10, MSE 0.0074"),
        ({"fid": 9.1, "label_accuracy": 0.9516}, "FID 9.10, label accuracy 0.952"),
        (
            {"fid": None, "translation_fid_ab": 12.345, "translation_fid_ba": 10.0},
            "FID 12.35 from A to B, FID 10.00 from B to A",
        ),
        ({"status": OTHER, "fid": 1.0}, "by another protocol: FID 1.00"),
        ({"status": FAILED}, "not run"),
    ],
)
def test_results_show_the_main_figures(values, expected):
    assert documents.result(row(**values)) == expected
