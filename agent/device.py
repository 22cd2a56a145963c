"""One device, put together: node, world, sensor, model, and what it says of itself.

Decides who is wired to whom. Everything that decides something else stands in a file of its own. Deliveries go
straight from the mesh into the world, in batches and in process; what the sensor sees goes out as reading and
obstacle events, and makes the inference loop look at the world as it is at that moment.

A sensor that ends or fails is logged and reported, and leaves the device a relay with a picture of the world; a model
that cannot run leaves it without forecasts. Neither stops it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.addresses import parse_address
from agent.errors import AgentError, ModelMissing
from agent.factories import made_by
from agent.limits import REASON_CHARACTERS_MAX
from agent.messages import Obstacle, PayloadInvalid, decode
from agent.models.acceptance import KINDS, Acceptance
from agent.models.errors import TransferError
from agent.models.memory import FILE, ManifestMemory
from agent.models.store import ContentStore
from agent.obstacles import ObstacleBook
from agent.presence import Presence
from agent.publisher import Publisher
from agent.report import STATUS_TOPIC, device_report, identity_report
from agent.rhythm import Rhythm
from agent.sensors.sensor import SENSOR_NAME, Reporting, Sensor
from agent.world import World
from broker import topic_names, topics
from broker.commits import Durability
from broker.credentials import Credentials, system_moment
from broker.errors import IdentityUnusable, StoreFailed
from broker.identity import Moment, Role
from broker.introduction import DEVICE_TOPIC, introduction
from broker.link import Neighbour
from broker.neighbourhood import Neighbourhood, Settings
from broker.node import Node
from broker.store import Store
from broker.strength import Strength
from broker.tasks import begin
from broker.trust import TlsAt, Trust
from broker.users import Anonymous, Users, UsersAt

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agent.config import Config
    from agent.forecasting import Forecasting
    from agent.observer import Observer
    from agent.sensors.sensor import Observation, Sighting
    from broker.node import Delivered

__all__ = ["Device"]

logger = logging.getLogger(__name__)

STATUS_S: Final = 1.0
"""How often the report for `flockmq status` is made: as often as a person looks."""
TTL_MS: Final = 60_000
"""Lifetime of a sensorless device's obstacles, of which there are none."""


class Device:
    """A device of the fleet.

    Args:
        config: What device.toml says.
        observer: Is told what happens; for drills.

    Raises:
        AgentError: The sensor, the features or the models that the configuration names are not there.
        FlockmqError: The state directory, this device's identity, its users, or a key of a hub, cannot be used.
    """

    def __init__(self, config: Config, observer: Observer | None = None) -> None:
        self._observer = observer
        self._name = config.device
        self._sensor: Sensor | None = None
        self._sensor_over: dict[str, str] = {}
        """What is to be reported of a sensor that has ended or failed."""
        if config.sensor is not None:
            sensor = config.sensor
            self._sensor = made_by(sensor.factory, config.device, sensor.options, Sensor)
        self.world = World(config.site, config.device)
        self._forecasting: Forecasting | None = None
        if config.model is not None:
            from agent.forecasting import Forecasting  # noqa: PLC0415 - numpy has 12 MB

            self._forecasting = Forecasting(config.device, config.model, self.world, observer)
        tls, users = _identity(config), _users(config)
        self.node = Node(
            config.device,
            Store(Path(config.state), relay_log_on_disk=config.store.relay_log == "disk"),
            host=config.broker.host,
            port=config.broker.port,
            websocket_port=config.broker.websocket_port,
            tls=tls,
            users=users,
            hubs=[hub.at() for hub in config.hub],
            bridges=[bridge.at(config.site) for bridge in config.bridge],
            durability=Durability(config.store.durability),
        )
        self._trust = tls.trust if tls is not None else None
        self._credentials: Credentials | None = None
        if tls is not None:
            self._credentials = Credentials(self.node, tls.trust, config.site, tls.seals)
        host = config.broker.host if config.tls is None else config.tls.host
        self._neighbourhood = Neighbourhood(self.node, _settings(config), host, trust=self._trust)
        self._publisher = Publisher(self.node, config.site)
        self._presence = Presence(config.device, self._incarnation, self.node.rise_above)
        ttl_ms = self._sensor.ttl_ms if self._sensor is not None else TTL_MS
        self._book = ObstacleBook(ttl_ms, self._incarnation)
        self._status_topic = topic_names.status_topic(site=config.site, device=config.device)
        self._rhythm = Rhythm(
            self._publisher,
            self.world,
            self._presence,
            self._worker_pid,
            [neighbour.name for neighbour in config.neighbour],
        )
        self.node.watch_links(self._rhythm.link)
        self._tasks: list[asyncio.Task[None]] = []
        self._sensor_task: asyncio.Task[None] | None = None
        self._nameless = ""
        self._model_topic = ""
        if self._forecasting is not None and config.model is not None:
            self._model_topic = topic_names.model_topic(site=config.site, name=config.model.name)
            acceptance = self._acceptance(config, tls)
            self._forecasting.attach(self._publisher, acceptance, _content_store(config))
        self.node.subscribe(self._deliver)
        if observer is not None:
            self.node.watch_links(self._tell_link)

    # Life.

    async def start(self) -> None:
        """Open the broker, dial the neighbours, start sensor and model.

        Raises:
            PortInUse: Another program has the broker's port.
        """
        await self.node.start()
        self._publisher.show(DEVICE_TOPIC, introduction(self._name, self._publisher.site))
        await self._neighbourhood.start()
        self._publisher.say(self._status_topic, self._presence.say("up", self._publisher.now_ms()))
        self._spawn(self._rhythm.run(), "rhythm")
        self._spawn(self._show_status(), "status")
        if self._credentials is not None:
            self._spawn(self._credentials.run(), "credentials")
        if self._forecasting is not None:
            self._spawn(self._forecasting.run(), "forecasting")
        if self._sensor is not None:
            self._sensor_task = self._spawn(self._sense(self._sensor), "sensor")

    async def stop(self) -> None:
        """Say goodbye and close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._neighbourhood.stop()
        if self._forecasting is not None:
            await self._forecasting.stop()
        self._publisher.say(
            self._status_topic, self._presence.say("down", self._publisher.now_ms())
        )
        self._rhythm.say_count()
        try:
            await self.node.committed()
        except StoreFailed as error:
            logger.error("%s: the goodbye could not be stored: %s", self._name, error)
        finally:
            await self.node.stop()

    def stop_sensors(self) -> None:
        """Observe nothing any more; everything else goes on."""
        if self._sensor_task is not None:
            self._sensor_task.cancel()

    # What can be asked.

    def clock(self) -> int:
        """The hybrid clock's present."""
        return self.node.clock()

    def digest(self, clock: int) -> str:
        """What all devices must agree on at `clock`."""
        return self.world.digest(clock)

    def report(self) -> dict[str, Any]:
        """The device at this moment, as `flockmq status` shows it."""
        report = device_report(self.node.statistics(), self.world, self._rhythm.uptime_s)
        report |= self._neighbourhood.report()
        if self._trust is not None and self._credentials is not None:
            report["identity"] = identity_report(self._trust, self._credentials)
        sensor: object = self._sensor
        if isinstance(sensor, Reporting):
            report["sensor"] = sensor.report()._asdict()
        if self._sensor_over:
            source = {"source": type(sensor).__module__}
            report["sensor"] = source | report.get("sensor", {}) | self._sensor_over
        if self._forecasting is not None:
            report |= self._forecasting.report()
        return report

    async def publish_model(self, payload: bytes) -> None:
        """Say what an operator has signed: make a version the fleet's current one.

        Raises:
            NotBelieved: No operator has signed it.
        """
        await self.node.publish(self._model_topic, payload)

    # What arrives.

    def _deliver(self, batch: list[Delivered]) -> None:
        self.world.apply_batch(batch, time.monotonic_ns())
        for message in batch:
            name = topics.classify(message.topic).name
            if name == "obstacle":
                self._note_obstacle(message)
            elif message.topic == self._model_topic and self._forecasting is not None:
                payload = self.node.retained_value(message.topic)
                if payload:
                    self._forecasting.hear(payload)

    def _note_obstacle(self, message: Delivered) -> None:
        """Own ones that come back as memory go on; others' are told to the observer."""
        own = message.origin == self._name
        if (own and not message.rebuild) or (not own and self._observer is None):
            return
        try:
            event = decode("obstacle", message.payload)
        except PayloadInvalid:
            return  # the world has counted it
        ids = topics.parse(message.topic)
        assert isinstance(event, Obstacle)
        if own:
            self._book.remember(ids["id"], event)
        elif self._observer is not None:
            key = f"{ids['device']}/{ids['id']}/{event.version}/{event.state}"
            applied_ns = time.monotonic_ns()
            self._observer.obstacle_applied(message.origin, key, applied_ns, message.rebuild)

    def _tell_link(self, peer: str, up: bool) -> None:  # noqa: FBT001 - the node's callback
        assert self._observer is not None
        self._observer.link_changed(peer, up, time.monotonic_ns())

    # What is seen.

    async def _sense(self, sensor: Sensor) -> None:
        try:
            observations = sensor.observations()
            try:
                async for observation in observations:
                    await self._observe(observation)
            finally:
                if isinstance(observations, AsyncGenerator):
                    # What it has open is closed now, not when it is collected.
                    await observations.aclose()
        except AgentError as error:
            self._sensor_over = {"state": "failed", "last_problem": str(error)}
            logger.error("%s: the sensor has failed: %s", self._name, error)
        except Exception as error:
            # Somebody's sensor: what it raises ends its readings, never the device.
            problem = f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX]
            self._sensor_over = {"state": "failed", "last_problem": problem}
            logger.exception("%s: the sensor has failed", self._name)
        else:
            self._sensor_over = {"state": "ended"}
            logger.info("%s: the sensor has ended", self._name)

    async def _observe(self, observation: Observation) -> None:
        site = self._publisher.site
        self._publisher.say(
            topic_names.sensor_topic(site=site, device=self._name, name=SENSOR_NAME),
            observation.reading,
        )
        published: list[tuple[str, int]] = []
        appeared = self._book.appeared
        sightings = [sighting for sighting in observation.sightings if self._has_id(sighting)]
        for obstacle, event in self._book.see(sightings, self._publisher.now_ms()):
            topic = topic_names.obstacle_topic(site=site, device=self._name, obstacle=obstacle)
            published_ns = time.monotonic_ns()
            if self._publisher.say(topic, event):
                key = f"{self._name}/{obstacle}/{event.version}/{event.state}"
                published.append((key, published_ns))
        self._rhythm.count(self._book.appeared - appeared)
        if self._forecasting is not None:
            self._forecasting.observe(observation)
        if published and self._observer is not None:
            await self.node.committed()
            for key, published_ns in published:
                self._observer.obstacle_published(key, published_ns)

    def _has_id(self, sighting: Sighting) -> bool:
        """Whether a sighting can be told of; a sensor of one's own may name things as it likes."""
        if topic_names.is_id(sighting.id):
            return True
        if sighting.id not in self._nameless:
            self._nameless = sighting.id
            text = (
                "%s: the sensor saw %r, whose id is not 1 to 32 of a-z, 0-9 and -; it is left out"
            )
            logger.warning(text, self._name, sighting.id)
        return False

    # Inside.

    def _acceptance(self, config: Config, tls: TlsAt | None) -> Acceptance:
        """Whose manifests this device takes up."""
        trust = tls.seals.models if tls is not None and tls.seals is not None else None
        memory = ManifestMemory(
            Path(config.state) / FILE, trust.is_revoked if trust is not None else lambda _: False
        )
        unsigned = config.model is not None and config.model.unsigned
        moment = tls.trust.moment if tls is not None else self._moment
        topic = self._model_topic
        return Acceptance(topic, trust, memory, moment, KINDS, unsigned=unsigned)

    def _moment(self) -> Moment:
        return Moment(self._publisher.now_ms(), synchronised=False)

    async def _show_status(self) -> None:
        while True:
            self._publisher.show(STATUS_TOPIC, self.report())
            await asyncio.sleep(STATUS_S)

    def _incarnation(self) -> int:
        return self.node.incarnation

    def _worker_pid(self) -> int | None:
        return self._forecasting.worker_pid if self._forecasting is not None else None

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = begin(coroutine, f"{self._name} {name}")
        self._tasks.append(task)
        return task


def _identity(config: Config) -> TlsAt | None:
    """Who this device is, and where it listens as that.

    Raises:
        FlockmqError: Its certificate or its key cannot be used, or is another device's.
    """
    if config.tls is None:
        return None
    trust = Trust(Path(config.tls.identity), system_moment)
    fleet, name, role = trust.identity
    if name != config.device or role is not Role.DEVICE:
        raise IdentityUnusable(
            f"the certificate in {config.tls.identity} is that of {role} {name} of fleet {fleet}, and this is device "
            f"{config.device}; `flockmq enroll` fetches another, or correct identity in [tls]"
        )
    seals = trust.seals(Strength(config.tls.tags))
    return TlsAt(trust, config.tls.host, config.tls.port, seals)


def _users(config: Config) -> UsersAt | None:
    """Who may come by a password.

    Raises:
        UsersUnusable: Their file cannot be used.
    """
    if config.users is None:
        return None
    return UsersAt(Users(Path(config.users.file)), Anonymous(config.users.anonymous))


def _content_store(config: Config) -> ContentStore:
    """Where this device keeps the bytes of models.

    Raises:
        ModelMissing: The folder cannot be used.
    """
    try:
        return ContentStore(Path(config.state) / "models")
    except TransferError as error:
        raise ModelMissing(str(error)) from None


def _settings(config: Config) -> Settings:
    """What the configuration says of the devices around."""
    return Settings(
        site=config.site,
        kind=config.kind,
        near=config.topology.near,
        far=config.topology.far,
        configured=[
            Neighbour(n.name, n.host, n.port or config.links_port) for n in config.neighbour
        ],
        seeds=[seed for text in config.discovery.seeds if (seed := parse_address(text))],
        mdns=config.discovery.mdns,
    )
