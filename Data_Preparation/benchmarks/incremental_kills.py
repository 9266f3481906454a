"""200 kills at random moments of append, replace, compact, gc and rollback: what is left is the old or the new dataset.

After each kill the dataset is read; then the command runs again, and every byte is compared with those of an
undisturbed run. A job that ended before its kill came does not count.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_KILLS = 200


def measure_kills(quick: bool) -> dict[str, Any]:
    """Numbers of kills, and of those after which something was wrong."""
    from data_pipeline.config.load import load_config
    from data_pipeline.download import open_corpus
    from data_pipeline.stages.compact import compact
    from data_pipeline.stages.pipeline import append_documents, run
    from data_pipeline.stages.preprocess import is_processed_file
    from data_pipeline.stages.versions import remove_garbage, roll_back
    from data_pipeline.store import ParagraphStore
    from data_pipeline.utils.folders import recover_folder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "data"
        articles = list(open_corpus(load_config(None, {"corpus.source": "sample"}).corpus).documents())

        def config(file: str) -> Any:
            own = {"corpus.source": "jsonl", "corpus.path": str(folder / file), "corpus.id_field": "id"}
            own |= {"corpus.name": "kills", "corpus.on_changed": "replace", "embedding.model_name": "hashing"}
            own |= {"storage.shard_rows": 20, "preprocess.min_tokens": 20}
            return load_config(None, own | {"data_dir": str(root), "logs_dir": str(folder / "logs")})

        def write(file: str, documents: Any) -> None:
            records = [{"id": document.id, "text": document.text} for document in documents]
            (folder / file).write_text("".join(json.dumps(record) + "\n" for record in records))

        def going_back() -> None:
            if ParagraphStore(root / "kills_processed").version == 2:
                roll_back(config("a.jsonl"), 1)
            else:  # it was finished but for the removal of the old folder, which the next command does
                recover_folder(root / "kills_processed", is_processed_file)

        jobs: dict[str, Callable[[], Any]] = {
            "append": lambda: append_documents(config("b.jsonl")),
            "replace": lambda: append_documents(config("a.jsonl")),
            "compact": lambda: compact(config("a.jsonl")),
            "gc": lambda: remove_garbage(config("a.jsonl"), 0),
            "rollback": going_back,
        }
        write("a.jsonl", articles[:30])
        write("b.jsonl", articles[30:40])
        _done(lambda: run(config("a.jsonl")))
        starts = {"append": shutil.copytree(root, folder / "append")}
        _done(jobs["append"])
        starts |= {what: shutil.copytree(root, folder / what) for what in ("rollback", "replace")}
        write("a.jsonl", [*articles[5:30], *articles[40:44]])
        _done(jobs["replace"])
        starts |= {what: shutil.copytree(root, folder / what) for what in ("compact", "gc")}
        wrong, kills, generator = 0, dict.fromkeys(jobs, 0), random.Random(0)
        for what, job in jobs.items():
            _fresh(root, starts[what])
            old = _done(lambda: _read(root))
            started = time.monotonic()
            _done(job)
            took, new, wanted = time.monotonic() - started, _done(lambda: _read(root)), _tree(root)
            while kills[what] < (3 if quick else _KILLS // len(jobs)):
                _fresh(root, starts[what])
                if _fork(job, generator.uniform(0, took))[0] != -signal.SIGKILL:
                    continue
                kills[what] += 1
                is_one_of_two = _fork(lambda: _read(root)) in ((0, old), (0, new))
                code, left = _fork(job)[0], _tree(root)
                if not is_one_of_two or code or left != wanted:
                    wrong += 1
                    differ = sorted(name for name in left.keys() | wanted.keys() if left.get(name) != wanted.get(name))
                    print(what, is_one_of_two, code, differ, file=sys.stderr, flush=True)
    return {"kills": sum(kills.values()), "wrong": wrong}


def _done(work: Callable[[], Any]) -> str:
    """What some work gave in a fork, as text; ends the run if it fails."""
    code, answer = _fork(work)
    if code:
        raise SystemExit(f"an undisturbed job ended with {code}")
    return answer


def _fork(work: Callable[[], Any], delay: float | None = None) -> tuple[int, str]:
    """Exit code of some work in a fork, which may be killed after a delay, and what it gave, as text.

    All work is done in forks, since threads of a process that has used its libraries do not survive one.
    """
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(read)
            os.write(write, str(work()).encode()[:1000])
        except BaseException as error:  # noqa: BLE001  # it must not run on as a second parent
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(write)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as file:
        answer = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answer


def _fresh(root: Path, start: Path) -> None:
    shutil.rmtree(root)
    shutil.copytree(start, root)


def _read(root: Path) -> str:
    """Hash of all rows and vectors, in no order."""
    from data_pipeline import ELMDataset
    from data_pipeline.store import ParagraphStore

    found = []
    for split in ParagraphStore(root / "kills_processed").splits:
        dataset = ELMDataset(root, split=split)
        table, vectors = dataset.rows.table(["text_id", "text"]).to_pylist(), dataset.to_numpy()
        found += [(split, *row.values(), vector.tobytes()) for row, vector in zip(table, vectors, strict=True)]
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()


def _tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and ".cache" not in path.parts
    }


if __name__ == "__main__":
    print(json.dumps(measure_kills(sys.argv[1] == "quick")))
