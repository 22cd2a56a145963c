"""MQTT.js over WebSocket, as browsers have it. Needs Node.js, and `npm install --prefix tests/embedded/mqttjs`."""

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from broker.passwords import hash_password
from broker.users import Users, UsersAt
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import running
from tests.users import written

HERE = Path(__file__).parent / "mqttjs"
PATIENCE_S = 40.0

pytestmark = [
    pytest.mark.skipif(
        shutil.which("node") is None, reason="MQTT.js needs Node.js: apt install nodejs npm"
    ),
    pytest.mark.skipif(
        not (HERE / "node_modules" / "mqtt").is_dir(),
        reason="MQTT.js is missing: npm install --prefix tests/embedded/mqttjs",
    ),
]


async def said_by(program: str, port: int) -> object:
    """Run a program of Node.js against a WebSocket listener; what it prints, read as JSON."""
    process = await asyncio.create_subprocess_exec(
        "node", HERE / program, f"ws://127.0.0.1:{port}", stdout=PIPE, stderr=PIPE
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, error.decode()
    return json.loads(out)


async def test_mqttjs_in_everything_that_a_browser_does() -> None:
    async with serving() as node:
        assert await said_by("client.mjs", node.broker.websocket_port) == {
            "seen": [0, 0, 0, 0, 1, 1, 0, 1, 2],
            "refusal": 1,
        }


async def test_mqttjs_comes_by_name_and_password(tmp_path) -> None:
    """What it is told in a refusal is what the broker said."""
    stored = hash_password(b"correct horse")
    users = UsersAt(Users(written(tmp_path / "users", f"bob device {stored}")))
    async with running(users=users, websocket=True) as node:
        assert await said_by("login.mjs", node.broker.websocket_port) == {
            "nobody": 5,
            "wrong": 4,
            "right": 0,
        }
        assert [topic for topic, *_ in node.published] == ["home/lamp"]
