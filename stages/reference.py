"""Measure the reference rows: data and judges in, metrics/<title>/reference.json out."""

from pipeline.core import files, params, paths, stage
from pipeline.datasets.store import SPLITS, Store
from pipeline.evaluation import judge, protocol, reference, verdict


def main() -> None:
    """Measure what is known without training, once per data set."""
    with stage.guard("reference") as guard:
        raw = params.read()
        home = params.results(raw)
        section: params.Evaluate = params.section(raw, "evaluate")
        device = stage.prepare_torch(params.section(raw, "runtime"))
        store = Store()
        n = params.section(raw, "sample").n
        n = protocol.sample_count(n, store.counts, section.split)
        facts = protocol.judge_facts()
        common = protocol.protocol(store, facts, n, section.split, section.seed)
        judges = judge.load(paths.JUDGE, store.spec, device)
        rows = reference.rows(store, judges, n=n, split=section.split, seed=section.seed)
        found = verdict.judge_the_judges(
            store, judges, facts["kinds"], n=n, split=section.split, seed=section.seed
        )
        result = {
            **common,
            "protocol": protocol.protocol_id(common),
            "judges": found.facts(),
            "images": {
                "shape": list(store.spec.shape),
                "classes": store.classes,
                **{name: store.counts[name] for name in SPLITS},
            },
            "rows": [files.rounded(each) for each in rows],
        }
        guard.confirm()
        files.write_json(home.reference, result)
        print(f"{len(rows)} reference rows for {store.name} in {home.reference}")
        for reason in found.kinds[0].reasons:
            print(f"warning: the judges do not judge: {reason}")


if __name__ == "__main__":
    stage.run(main)
