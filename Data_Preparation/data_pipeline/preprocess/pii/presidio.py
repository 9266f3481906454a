"""Personal data found by the pattern recognizers of Presidio, which need no model of a language."""

from collections.abc import Sequence
from typing import Any

from data_pipeline.preprocess.pii.spans import Finder, PersonalSpan, without_overlaps
from data_pipeline.utils.extras import require

_ENTITIES = {"email": "EMAIL_ADDRESS", "ip": "IP_ADDRESS", "credit_card": "CREDIT_CARD", "phone": "PHONE_NUMBER"}
_MIN_SCORE = 0.4  # what Presidio gives a phone number without words such as "call" near it


def presidio_finder(kinds: Sequence[str], phone_region: str) -> Finder:
    """Finder of personal data by Presidio.

    Args:
        kinds: kinds to find: `email`, `ip`, `phone`, `credit_card`.
        phone_region: region (ISO 3166) of phone numbers without a country code.

    Raises:
        MissingExtraError: Presidio is not installed.
    """
    library: Any = require("presidio_analyzer.predefined_recognizers", "presidio", "filters.pii_engine: presidio")

    class OfflineEmailRecognizer(library.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> None:
            """Skip the check of the domain, which fetches the list of public suffixes from the network."""

    loaders: dict[str, Any] = {
        "email": OfflineEmailRecognizer,
        "ip": library.IpRecognizer,
        "credit_card": library.CreditCardRecognizer,
        "phone": lambda: library.PhoneRecognizer(supported_regions=[phone_region]),
    }
    recognizers = [(kind, load()) for kind, load in loaders.items() if kind in kinds]

    def find(line: str) -> Sequence[PersonalSpan]:
        return without_overlaps(
            PersonalSpan(result.start, result.end, kind)
            for kind, recognizer in recognizers
            for result in recognizer.analyze(line, [_ENTITIES[kind]], None)
            if result.score >= _MIN_SCORE
        )

    return find
