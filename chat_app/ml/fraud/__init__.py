"""Fraud: rules and a model that judge each event by what happened before it.

`Engine` online, `replay` for training and restarts, `FraudModel` for any table of rare events.
Importing it loads no library of models.
"""

from typing import TYPE_CHECKING, Any

from chat_app.ml.fraud.engine import Costs, Decision, Engine
from chat_app.ml.fraud.events import BadEvent, Event
from chat_app.ml.fraud.replay import replay
from chat_app.ml.fraud.rules import Rules
from chat_app.ml.fraud.state import State

if TYPE_CHECKING:
    from chat_app.ml.fraud.model import FraudModel

__all__ = [
    "BadEvent", "Costs", "Decision", "Engine", "Event", "FraudModel", "Rules", "State", "replay",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """FraudModel, which needs pandas, is loaded when somebody asks for it."""
    if name == "FraudModel":
        from chat_app.ml.fraud.model import FraudModel

        return FraudModel
    raise AttributeError(name)
