"""A model's follower with real workers, and without a mesh: models that fall ill, and what becomes of each reading."""

import asyncio
import contextlib
import time
from functools import partial
from pathlib import Path

import msgspec

from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.loop import Filled, InferenceLoop
from agent.infer.standby import StandbyClient
from agent.models.acceptance import KINDS, Acceptance
from agent.models.content import content_of
from agent.models.follower import ModelFollower
from agent.models.library import Library
from agent.models.manifest import Rollout, Variant, encode_manifest, publishable
from agent.models.memory import FILE, ManifestMemory
from agent.models.package import write_package
from agent.models.packing import Described, pack
from agent.models.shipped import ModelFiles
from agent.models.store import ContentStore
from agent.models.surroundings import Fleet, Surroundings
from broker.identity import DAY_MS, Moment, Role
from broker.model_envelope import write_envelope
from broker.model_key import ModelKey
from broker.model_trust import ModelTrust
from tests import waiting
from tests.identity.fleet import T_MS
from tests.identity.fleet import Fleet as TrustedFleet
from tests.infer.processes import on_every_start

DATA = Path(__file__).parents[1] / "data" / "models"
SITE = "town"
TOPIC = f"flock/v1/{SITE}/model/occupancy"
DENSE, OTHER, WIDE = (
    (DATA / f"{name}.tflite").read_bytes() for name in ("dense", "dense_other", "dense_wide")
)

until = partial(waiting.until, within_s=40)
"""Workers start, load and end meanwhile."""

ILL = """
import os, time
from agent.infer import tflite, wire
from agent.infer.backend import InvokeFailed
made, invoke = tflite.TfliteBackend.__init__, tflite.TfliteBackend.invoke
def ill_made(self, interpreter, model, num_threads):
    self.ill = model[-16:].strip(b"-").decode("latin-1")
    self.invoked = 0
    if self.ill == "crash at load":
        os.abort()
    if self.ill == "hang at load":
        time.sleep(3600)
    if self.ill == "lies at load":
        wire.pack_loaded = lambda *_: b'["runs", [[-1, 4], "float32"], 5]'
    if self.ill == "lies of its time":
        time.perf_counter_ns = lambda: time.monotonic_ns() ** 2
    made(self, interpreter, model, num_threads)
def ill_invoke(self, features):
    self.invoked += 1
    if self.ill == "crash at sample" and self.invoked == 2:
        os.abort()
    if self.ill == "hang at sample" and self.invoked == 2:
        time.sleep(3600)
    if self.ill == "slow":
        time.sleep(0.08)
    if self.ill == "later":
        if os.path.exists(folder + "/fail"):
            raise InvokeFailed("as the test says")
        if os.path.exists(folder + "/crash"):
            os.abort()
        if os.path.exists(folder + "/slow"):
            time.sleep(0.08)
    return invoke(self, features)
tflite.TfliteBackend.__init__, tflite.TfliteBackend.invoke = ill_made, ill_invoke
"""


def make_ill(monkeypatch, folder):
    """From now on models whose bytes end in an illness have it; `later` when a file in the folder says so."""
    on_every_start(monkeypatch, folder, f"folder = {str(folder)!r}\n{ILL}")


def ill(illness):
    """A model with that illness; without it as good as `OTHER`."""
    return OTHER + illness.encode().rjust(16, b"-")


def package(models, version, data, base=DENSE, **changes):
    """A version in a folder: what `data` is, described as if it were `base`."""
    described = Described("occupancy", version, "a test", Rollout(), 0.0, 1.0, 1, None)
    draft, _ = pack(described, [("a file", base)])
    variants = (Variant(kind=Kind.TFLITE, content=content_of(data)),)
    draft = msgspec.structs.replace(draft, version=version, variants=variants, **changes)
    write_package(models / f"occupancy-{version}", draft, {Kind.TFLITE: data})
    return draft


def good(models, version="1", data=DENSE, **changes):
    """A version that is what it says."""
    return package(models, version, data, data, **changes)


def payload(draft, counter, life_ms=600_000):
    """What a device without identity takes from anybody."""
    now_ms = time.time_ns() // 1_000_000
    made = {"counter": counter, "made_ms": now_ms - 1_000, "expires_ms": now_ms + life_ms}
    return write_envelope(encode_manifest(publishable(draft, site=SITE, **made)))


class Desk:
    """An operator's key in a fleet with identities, and whom its devices believe."""

    def __init__(self, directory):
        fleet = TrustedFleet(directory)
        fleet.join("desk", Role.OPERATOR)
        self._key = ModelKey(directory / "desk", T_MS)
        self.revoked = set()
        authority = (fleet.authority / "ca.pem").read_bytes()
        self.trust = ModelTrust("town", authority, lambda: self.revoked)

    def signed(self, draft, counter):
        """What an operator publishes."""
        made = {"counter": counter, "made_ms": T_MS, "expires_ms": T_MS + 300 * DAY_MS}
        return self._key.sign(encode_manifest(publishable(draft, site=SITE, **made)))


class Nobody:
    """Neighbours who have nothing; or an error in their stead."""

    def __init__(self, store):
        self._store = store
        self.error = None

    async def fetch(self, content):
        if self.error is not None:
            raise self.error
        if not self._store.holds(content.sha256):
            await asyncio.Event().wait()

    def progress(self):
        return {}

    async def close(self):
        pass


class Followed:
    """One device's follower, with readings that never end."""

    def __init__(self, directory, models, *, limits=None, trust=None, now_ms=None):
        self.statuses = []
        self.fleet = Fleet(frozenset(), {})
        self.misfit = ""
        self.client = StandbyClient(limits or Limits())
        self.store = ContentStore(directory / "models-store")
        self.neighbours = Nobody(self.store)
        library = Library(ModelFiles(str(models)), self.store, self.neighbours)
        self.memory = ManifestMemory(directory / FILE, lambda _: False)
        acceptance = Acceptance(
            TOPIC,
            trust,
            self.memory,
            lambda: Moment(now_ms or time.time_ns() // 1_000_000, synchronised=True),
            KINDS,
            unsigned=trust is None,
        )
        around = Surroundings(
            "me",
            self.statuses.append,
            lambda: 1,
            lambda: self.fleet,
            lambda _: self.misfit,
        )
        self.follower = ModelFollower(self.client, library, acceptance, around)
        self.decided = []
        self.loop = InferenceLoop(self.client, self._fill, self._decide)
        self.submitted = 0

    def _fill(self, reading, into):
        into[...] = 0.5
        return Filled(reading, 0)

    def _decide(self, decision):
        self.decided.append(decision)

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else None

    @property
    def states(self):
        """(version, state), as they followed each other."""
        told = [(status.version, status.state) for status in self.statuses]
        return [each for at, each in enumerate(told) if at == 0 or told[at - 1] != each]

    async def infer(self):
        """A reading as soon as the last one is decided, for ever."""
        while True:
            if self.follower.active is not None:
                decided = len(self.decided)
                self.submitted += 1
                self.loop.submit_nowait(time.monotonic_ns())
                await until(lambda n=decided: len(self.decided) > n, "a decision")
            await asyncio.sleep(0.001)

    async def becomes(self, version, state, running=...):
        """Wait until that is said; returns it."""

        def said():
            status = self.status
            return (
                status is not None
                and (status.version, status.state) == (version, state)
                and running in {..., status.running}
            )

        try:
            await until(said, f"{version} {state}")
        except AssertionError:
            raise AssertionError(f"no {version} {state}: {self.statuses}") from None
        return self.status

    def lost(self):
        """Readings that came to nothing."""
        counted = self.loop.statistics()
        return counted.failed, counted.superseded


async def begin(it, draft, counter=1):
    """Version 1 runs, and decides."""
    it.follower.want(payload(draft, counter))
    await it.becomes("1", "active")
    await until(lambda: it.decided, "a decision")


def workers(it):
    """Process ids of the workers that there are."""
    return [client.statistics().worker_pid for client in it.client._clients]


@contextlib.asynccontextmanager
async def followed(directory, models, **options):
    """A follower that runs, as a device would have it."""
    it = Followed(directory, models, **options)
    await it.client.start()
    tasks = [asyncio.create_task(each) for each in (it.follower.run(), it.loop.run(), it.infer())]
    try:
        yield it
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await it.client.stop()
