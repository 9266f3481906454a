"""`elm explore` on a million rows: from the command to a browser that shows the points.

The dataset is that of `large_dataset.py`: 384 dimensions in float16, sentences of the bundled sample, in four shards.
The command runs in a process of its own and opens the dataset for the first time, so that texts are copied for random
access and vectors are projected. The browser, a headless Chromium without a GPU, is open before. It draws by the
processor, and therefore one of ten points. They are shown when the page counts all rows and the map is painted.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import CHECKOUT, Figure, Figures
from large_dataset import write_large_dataset

_PATIENCE_S = 300
_LEAST_PAINTED = 0.002


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    rows = 20_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        write_large_dataset(folder, rows)
        first, again = measure_opening(folder, rows), measure_opening(folder, rows)
    return {
        "explore_open_s_1m": Figure(
            first["points_s"], "s", "<= 20",
            f"{rows:,} rows, the first time; URL after {first['url_s']:.0f} s; {first['peak_mb']:.0f} MB",
        ),
        "explore_reopen_s_1m": Figure(
            again["points_s"], "s", "", f"the second time; URL after {again['url_s']:.0f} s"
        ),
    }  # fmt: skip


def measure_opening(folder: Path, rows: int) -> dict[str, float]:
    """Open a dataset in the explorer, and return seconds until its URL and its points are there, and peak memory.

    Args:
        folder: data folder.
        rows: number of rows, which the page must count.
    """
    sys.path.insert(0, str(CHECKOUT / "Data_Preparation" / "tests"))
    from support.browser import open_browser, open_page, painted_share

    with open_browser() as browser, open_page(browser) as watched:
        started = time.perf_counter()
        with _command(folder) as process:
            url = process.stdout.readline().strip()
            url_s = time.perf_counter() - started
            if not url.startswith("http://127.0.0.1:"):
                raise SystemExit(f"elm explore did not start: {url}")
            watched.page.goto(url)
            counted = watched.page.get_by_text(f"{rows:,} points", exact=True).first
            counted.wait_for(timeout=_PATIENCE_S * 1000)
            while painted_share(watched.page) < _LEAST_PAINTED:
                if time.perf_counter() - started > _PATIENCE_S:
                    raise SystemExit(f"no points were drawn within {_PATIENCE_S} s")
                watched.page.wait_for_timeout(50)
            points_s = time.perf_counter() - started
            peak_mb = _peak_mb(process.pid)
            process.terminate()
    return {"url_s": url_s, "points_s": points_s, "peak_mb": peak_mb}


def _command(folder: Path) -> Any:
    command = [sys.executable, "-m", "data_pipeline.cli", "explore", "--no-browser", "--output-dir", str(folder)]
    path = os.pathsep.join(filter(None, [str(CHECKOUT / "Data_Preparation"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def _peak_mb(process: int) -> float:
    """Peak memory of another process in MB, mapped files included; 0 where the system does not say."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else 0.0


if __name__ == "__main__":
    from harness import print_table

    print_table("report", measure("--quick" in sys.argv))
