"""The state of an environment in the middle of an episode, as JSON values: what decides how the episode goes on.

Gymnasium has no such notion, so this knows the environments that Gymnasium brings itself: MuJoCo's and classic control.
Of others (Box2D, a user's own) nothing is guessed.
"""

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

READ_BEFORE_A_STEP = ("xpos", "xipos", "site_xpos")
"""Of MuJoCo's derived quantities those that environments look at before the simulation has renewed them."""
CLASSIC = ("state", "steps_beyond_terminated", "last_u")
"""Attributes of classic control environments that change within an episode."""


class Lane(gymnasium.Wrapper):
    """One of several copies of an environment, which can be asked for its state.

    Args:
        env: the environment.
        index: of this copy.
    """

    def __init__(self, env: gymnasium.Env, index: int) -> None:
        super().__init__(env)
        self.index = index

    def keeps_state(self) -> bool:
        """Whether :meth:`lane_state` tells all there is."""
        wrapper: Any = self.env
        while isinstance(wrapper, OrderEnforcing | PassiveEnvChecker | TimeLimit):
            wrapper = wrapper.env
        known = type(wrapper).__module__.startswith(("gymnasium.envs.mujoco.", "gymnasium.envs.classic_control."))
        return known and wrapper is self.unwrapped

    def lane_state(self) -> dict[str, Any]:
        """As JSON values."""
        inner: Any = self.unwrapped
        found: dict[str, Any] = {"random": inner.np_random.bit_generator.state}
        limit = self._time_limit()
        if limit is not None:
            found["elapsed_steps"] = limit._elapsed_steps
        if _is_mujoco(inner):
            mujoco: Any = importlib.import_module("mujoco")
            signature = mujoco.mjtState.mjSTATE_INTEGRATION
            whole = np.empty(mujoco.mj_stateSize(inner.model, signature))
            mujoco.mj_getState(inner.model, inner.data, whole, signature)
            found["integration"] = whole.tolist()
            found["derived"] = {name: getattr(inner.data, name).tolist() for name in READ_BEFORE_A_STEP}
        else:
            values = {name: getattr(inner, name) for name in CLASSIC if getattr(inner, name, None) is not None}
            found["attributes"] = {
                name: {"dtype": str(np.asarray(value).dtype), "value": np.asarray(value).tolist()}
                for name, value in values.items()
            }
        return found

    def load_lane_state(self, states: list[dict[str, Any]]) -> None:
        """Go back to this copy's part of what :meth:`lane_state` gave, after a reset."""
        state, inner = states[self.index], self.unwrapped
        own: Any = inner
        own.np_random.bit_generator.state = state["random"]
        limit = self._time_limit()
        if limit is not None:
            limit._elapsed_steps = state["elapsed_steps"]
        if _is_mujoco(inner):
            mujoco: Any = importlib.import_module("mujoco")
            mujoco.mj_setState(own.model, own.data, np.array(state["integration"]), mujoco.mjtState.mjSTATE_INTEGRATION)
            for name, values in state["derived"].items():
                getattr(own.data, name)[:] = np.array(values).reshape(getattr(own.data, name).shape)
        for name in CLASSIC:
            saved = state.get("attributes", {}).get(name)
            if saved:
                value = np.array(saved["value"], saved["dtype"])
                setattr(own, name, value if value.ndim else value.item())
            elif hasattr(own, name):
                setattr(own, name, None)

    def _time_limit(self) -> TimeLimit | None:
        wrapper: Any = self.env
        while isinstance(wrapper, gymnasium.Wrapper):
            if isinstance(wrapper, TimeLimit):
                return wrapper
            wrapper = wrapper.env
        return None


def _is_mujoco(environment: Any) -> bool:
    return type(environment).__module__.startswith("gymnasium.envs.mujoco.")
