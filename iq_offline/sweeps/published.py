"""Other people's numbers to draw a sweep's beside, as its file has them in ``[[published]]``."""

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from iq_offline.config import STRICT, Positive, from_table
from iq_offline.errors import UserError


@dataclass(frozen=True, config=STRICT)
class Published:
    """A learner's returns against the number of expert trajectories."""

    learner: str
    source: str
    """Where they were published, in a few words: they are in the legend."""
    expert: str
    """The dataset whose panel they belong to (``data.expert``)."""
    expert_return: float
    """Of the expert that was learned from there: what a score of 1 is for these returns."""
    num_expert_trajectories: Annotated[tuple[Positive, ...], Field(min_length=1)]
    returns: tuple[float, ...]

    def scores(self, random_return: float) -> list[float]:
        """Normalised with their own expert, and with the return of a random policy as it was measured here."""
        return [(value - random_return) / (self.expert_return - random_return) for value in self.returns]


def published_of(tables: Any, source: str) -> tuple[Published, ...]:
    """The curves of a sweep's file.

    Raises:
        UserError: it is no list of tables, a key is unknown or missing, or a curve has not as many returns as numbers
            of trajectories.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{source}: published = {tables!r}: must be a list of tables, each headed by [[published]]")
    curves = tuple(from_table(Published, table, f"{source}: published") for table in tables)
    for curve in curves:
        if len(curve.returns) != len(curve.num_expert_trajectories):
            raise UserError(
                f"{source}: published: {curve.learner} on {curve.expert} has {len(curve.returns)} returns for "
                f"{len(curve.num_expert_trajectories)} numbers of trajectories"
            )
    return curves
