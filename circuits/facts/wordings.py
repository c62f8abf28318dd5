"""Questions that no template of the atlas asks: reversed, two hops, comparisons, unseen subjects.

Wordings hold `{}` for the subject and end where the answer follows. They are tables that grow with
the atlas; a relation that is not in one of them is not asked in that way.
"""

from __future__ import annotations

from dataclasses import dataclass

REVERSED = {
    "country_capital": "{} is the capital of",
    "country_largest_city": "{} is the largest city in",
    "country_demonym": "{} are the people from",
    "us_state_capital": "{} is the state capital of",
    "element_symbol": "{} is the chemical symbol for",
    "adjective_antonym": "{} is the opposite of",
    "adjective_comparative": "{} is the comparative of",
    "adjective_superlative": "{} is the superlative of",
    "noun_plural": "{} is the plural of",
    "verb_past": "{} is the past tense of",
    "verb_gerund": "{} is the gerund of",
    "animal_young": "{} is the word for a baby",
}
"""From the object back to the subject, for relations in which an object belongs to one subject."""


@dataclass(frozen=True)
class Chain:
    """Two relations of which the second is asked about the first one's object.

    `nested` asks both in one question; the second relation's own wording asks it of the first
    one's subject, which is not of the kind it was ever asked about.
    """

    first: str
    second: str
    nested: str

    @property
    def name(self) -> str:
        """Both relations."""
        return f"{self.first}+{self.second}"


CHAINS = (
    Chain("landmark_country", "country_capital", "The capital of the country where {} stands is"),
    Chain(
        "landmark_country",
        "country_language",
        "The official language of the country where {} stands is",
    ),
    Chain(
        "city_country",
        "country_currency",
        "The currency of the country where the city of {} is located is the",
    ),
    Chain(
        "dish_country",
        "country_capital",
        "The capital of the country that the dish {} comes from is",
    ),
    Chain(
        "product_company",
        "company_industry",
        "The main business of the company that makes {} is",
    ),
    Chain(
        "athlete_country",
        "country_continent",
        "The continent where the country of the athlete {} is located is",
    ),
)
"""Two-hop questions whose parts the atlas holds."""

COMPARED = {
    "country_continent": "Of {} and {}, the one that is located in {object} is",
    "animal_class": "Of the {} and the {}, the one in the class of the {object} is the",
    "athlete_sport": "Of {} and {}, the one whose sport is {object} is",
    "person_occupation": "Of {} and {}, the one whose occupation was {object} is",
    "company_country": "Of {} and {}, the one whose home country is {object} is",
    "element_phase": "Of {} and {}, the one whose phase is {object} is",
}
"""Which of two subjects has an object."""


def negated(template: str) -> str | None:
    """The template with `not` at its end; None where it does not end in a verb."""
    return f"{template} not" if template.endswith((" is", " was", " are")) else None
