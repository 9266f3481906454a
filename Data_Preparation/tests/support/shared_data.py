"""Where the checkout is, and the real data beside it."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("ELM_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
