"""The MQTT broker inside a device: amqtt's shell around a client loop and delivery of our own.

The only folder that touches amqtt's inside. Public: `EmbeddedBroker`, its `Limits` and
`Statistics`, and the seam to the node, `Ingress`, `LinkIngress` and `Pipe`.
"""

from broker.embedded.broker import EmbeddedBroker
from broker.embedded.ingress import Ingress, LinkIngress, Pipe
from broker.embedded.limits import Limits
from broker.embedded.session_journal import SessionChanges, StoredMessage, StoredSession
from broker.embedded.statistics import Counters, Statistics

__all__ = [
    "Counters",
    "EmbeddedBroker",
    "Ingress",
    "Limits",
    "LinkIngress",
    "Pipe",
    "SessionChanges",
    "Statistics",
    "StoredMessage",
    "StoredSession",
]
