"""Settings of the filters by language, quality presets, personal data and the user's own rules."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from data_pipeline.config.base import Section, setting

PresetName = Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]
PersonalDataKind = Literal["email", "ip", "phone", "credit_card"]


class FiltersConfig(Section):
    """Filters of documents and paragraphs, all off by default."""

    presets: list[PresetName] = setting(default_factory=list, added=True)
    """Quality presets for whole English documents, applied in this order, with the decisions of datatrove's filters:
    gopher_quality, gopher_repetition, c4 (also removes lines), fineweb."""
    language: bool = setting(False, added=True)
    """Identify the language of each paragraph, and write the columns language (ISO 639 code) and language_score."""
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = setting(default_factory=list, added=True)
    """Languages to keep, as ISO 639-1 codes such as en; sets language. Empty: all."""
    min_language_score: float = setting(0.0, added=True, ge=0, le=1)
    """Minimum score of the identified language, 0 to 1; sets language if it is above 0."""
    pii: Literal["keep", "mask", "drop"] = setting("keep", added=True)
    """Handling of personal data in texts and headings. keep: leave it; mask: replace each by a marker such as <email>;
    drop: drop the paragraphs that have any."""
    pii_kinds: list[PersonalDataKind] = setting(
        default_factory=lambda: ["email", "ip", "phone", "credit_card"], added=True, min_length=1
    )
    """Kinds of personal data to mask or drop: email, ip, phone, credit_card."""
    pii_engine: Literal["patterns", "presidio"] = setting("patterns", added=True)
    """Search for personal data. patterns: patterns with checksums and the rules of phone numbers; presidio: the pattern
    recognizers of Presidio."""
    phone_region: str = setting("US", added=True, pattern="^[A-Z]{2}$")
    """Region (ISO 3166) of phone numbers without a country code."""
    functions: list[str] = setting(default_factory=list, added=True)
    """Your own filters, as module:function; each takes the columns of a row as a mapping, and returns a reason to drop
    it or None. The module is imported, which runs its code."""
    keep_where: dict[str, str] = setting(default_factory=dict, added=True)
    """Conditions in SQL over the columns of a row, by reason; rows for which a condition is not true are dropped."""

    @property
    def identifies_language(self) -> bool:
        """Whether the language of each paragraph is identified."""
        return self.language or bool(self.languages) or self.min_language_score > 0

    @field_validator("functions")
    @classmethod
    def _functions_have_a_module(cls, names: list[str]) -> list[str]:
        for name in names:
            module, colon, function = name.partition(":")
            if not (module and colon and function):
                raise ValueError(f"{name!r} must be module:function, such as my_filters:is_poem")
        return names

    @field_validator("keep_where")
    @classmethod
    def _reasons_are_words(cls, conditions: dict[str, str]) -> dict[str, str]:
        for reason in conditions:
            if not reason or not reason.replace("_", "a").isalnum():
                raise ValueError(f"the reason {reason!r} must consist of letters, digits and underscores")
        return conditions
