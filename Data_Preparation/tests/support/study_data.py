"""A made-up data set of two classes, and settings of a study on it."""

import random

from data_pipeline.study import load_study

WORDS = (["bad", "awful", "poor"], ["good", "fine", "great"])
ODD = [("null", 0), ("nan", 1), ("n/a", 0), ('say "so"', 1), ("a, b; c", 0), ("null", 0)]


def made_up(rows, seed=0):
    rng = random.Random(seed)
    found = []
    for _ in range(rows):
        label = rng.randrange(2)
        words = [rng.choice(WORDS[label]), *rng.choices("abcdefgh", k=rng.randint(0, 8))]
        found.append((" ".join(words), label))
    return found


def write_tsv(path, rows):
    # GLUE's texts end in a space.
    path.write_text("sentence\tlabel\n" + "".join(f"{text} \t{label}\n" for text, label in rows), encoding="utf-8")


def write_data(folder, rows=120, dev=40):
    folder.mkdir(parents=True, exist_ok=True)
    write_tsv(folder / "train.tsv", ODD + made_up(rows - len(ODD), 1))
    write_tsv(folder / "dev.tsv", made_up(dev, 2))


def settings(folder, *more, kind="probe"):
    return [
        f"data.train={folder}/train.tsv", f"data.dev={folder}/dev.tsv", f"paths.data_dir={folder}/a study",
        "embedding.model_name=hashing", f"model.kind={kind}", "training.probe.epochs=4", "training.epochs=1",
        "training.device=cpu", "subset.frac=0.2", *more,
    ]  # fmt: skip


def study(folder, *more, kind="probe"):
    return load_study(settings(folder, *more, kind=kind))
