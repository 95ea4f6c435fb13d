"""The sections of a configuration that belong to the algorithms beside IQ-Learn (``config`` itself has the others)."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from iq_offline.config.iq_learn import STRICT, Positive, Rate


@dataclass(frozen=True, config=STRICT)
class BCConfig:
    """Coefficients of behavior cloning."""

    loss: Literal["squared_error", "robust", "likelihood"] = "squared_error"
    """Squared error of tanh(mean); the same, but hardly counting actions far off; or minus the log-likelihood."""
    learning_rate: Rate = 3e-4
    """Adam's, at the start."""
    imitate: Literal["expert", "everything"] = "expert"
    """The labelled expert alone, or the suboptimal data as well, in the shares of a batch."""
    outlier_error: Annotated[float, Field(gt=0)] = 0.5
    """robust: the error that counts half of what it would (root mean square over an action; half a box is 1)."""


@dataclass(frozen=True, config=STRICT)
class ValueDICEConfig:
    """Coefficients of ValueDICE."""

    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Gamma."""
    start_states: Literal["expert", "initial"] = "expert"
    """States in the place of s0: all of the expert's, as in the authors' experiments, or the first of each episode."""
    replay_alpha: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The paper's alpha: share of the suboptimal and the online data, where there are any, in both distributions
    compared."""
    gradient_penalty: Annotated[float, Field(ge=0)] = 10.0
    """Weight of E[(|dnu| - 1)²] between the data and the policy's actions in other states."""
    orthogonal_penalty: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the squared products of different units' weights, in every layer of the actor."""
    nu_learning_rate: Rate = 1e-3
    """Adam's, at the start."""
    actor_learning_rate: Rate = 3e-4
    """Adam's, at the start. Chosen on Hopper; no rate was found that holds on CartPole."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's momentum for both. At the usual 0.9 policy and nu circle around the expert instead of settling."""


@dataclass(frozen=True, config=STRICT)
class ActorCriticConfig:
    """What SQIL and GAIL share with IQ-Learn online, where critic and policy are learned in the same way."""

    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Gamma."""
    critic_learning_rate: Rate = 1e-3
    """Adam's, at the start."""
    actor_learning_rate: Rate = 3e-4
    """Adam's, at the start."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's momentum for all networks."""
    target_update_rate: Rate = 0.005
    """How fast the target critic follows."""


@dataclass(frozen=True, config=STRICT)
class SQILConfig(ActorCriticConfig):
    """Coefficients of SQIL, which needs suboptimal data or the environment."""

    temperature: Annotated[float, Field(gt=0)] = 0.01
    """Entropy coefficient, fixed."""
    other_weight: Annotated[float, Field(ge=0)] = 1.0
    """The paper's lambda_samp: weight of the squared error on transitions that are not labelled, whose reward is 0."""


@dataclass(frozen=True, config=STRICT)
class GAILConfig(ActorCriticConfig):
    """Coefficients of GAIL, which is for the online stage alone: IQ-Learn's there, where they are the same."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Entropy coefficient, fixed."""
    gradient_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Weight of E[(|dlogit| - 1)²] between the expert's transitions and others."""
    behavior_anchor: Annotated[float, Field(ge=0)] = 0.0
    """Weight of E_E[|tanh(mean(s)) - a|²] in the actor's loss, which IQ-Learn has online and the paper has not. Half of
    what Q is where policy and expert are alike would be log(2) / (1 - discount) / 2."""
    discriminator_learning_rate: Rate = 3e-4
    """Adam's, at the start."""
    critics: Positive = 2
    """The smallest of so many critics' values counts."""
