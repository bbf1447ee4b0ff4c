import time
def test_a(bundle, gallery):
    from cir_rt.retriever import Retriever
    with Retriever.open(bundle, gallery, threads=1) as r:
        print(r.search(image="dress-val-00000", text="in red", k=3).to_json())
    print(sorted(bundle.rglob("*")), (bundle/"manifest.json").read_text()[:3000])
