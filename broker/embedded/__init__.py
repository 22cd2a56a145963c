"""The MQTT broker inside a device: amqtt's shell around a client loop and delivery of our own.

The only folder that touches amqtt's inside. Public: `EmbeddedBroker`, its `Limits` and
`Statistics`, and the seam to the node, `Ingress` and `Pipe`.
"""
