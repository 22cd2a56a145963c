"""device.toml: what it may say, and what is said of it when it may not."""

import pytest

from agent.commands.doctor import findings
from agent.config import load
from agent.errors import ConfigError
from broker.errors import SecretUnusable


def written(tmp_path, text):
    path = tmp_path / "device.toml"
    path.write_text(text)
    return path


def test_a_device_needs_only_a_name(tmp_path):
    config = load(written(tmp_path, 'device = "a"'))
    assert config.broker.host == "127.0.0.1"
    assert config.broker.port == 1883
    assert config.state == str(tmp_path / "state" / "a")
    assert config.sensor is None
    assert config.model is None


def test_everything_can_be_said(tmp_path):
    config = load(
        written(
            tmp_path,
            """
            device = "a"
            site = "town"
            state = "/var/lib/flockmq"
            [broker]
            host = "0.0.0.0"
            port = 1884
            websocket_port = 9001
            plain_listen = true
            [[neighbour]]
            name = "b"
            host = "10.0.0.2"
            [[neighbour]]
            name = "c"
            host = "c.local"
            port = 1885
            [sensor]
            options = { junction = "j-1-1", speed = 2.0 }
            [model]
            directory = "models"
            threads = 2
            """,
        )
    )
    assert config.state == "/var/lib/flockmq"
    assert [n.name for n in config.neighbour] == ["b", "c"]
    assert config.sensor.options["speed"] == 2.0
    assert config.model.directory == str(tmp_path / "models")


def test_a_hub_without_a_key_needs_consent_in_so_many_words(tmp_path):
    text = 'device = "a"\n[[hub]]\nhost = "h"\n'
    with pytest.raises(ConfigError, match='integrity = "none"'):
        load(written(tmp_path, text))
    (hub,) = load(written(tmp_path, text + 'integrity = "none"')).hub
    assert hub.at().key == b""
    with pytest.raises(ConfigError, match="remove one"):
        load(written(tmp_path, text + 'integrity = "none"\nkey_file = "k"'))
    with pytest.raises(ConfigError, match="integrity"):
        load(written(tmp_path, text + 'integrity = "some"'))
    with pytest.raises(ConfigError, match="no username"):
        load(written(tmp_path, text + 'key_file = "k"\npassword_file = "p"'))
    with pytest.raises(ConfigError, match="twice"):
        load(written(tmp_path, text + 'key_file = "k"\n[[hub]]\nhost = "h"\nkey_file = "k"'))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither in nor out"),
        ('in = [{ filter = "a#" }]', "let it stand alone"),
        ('in = [{ filter = "a", qos = 2 }]', "qos"),
        ('in = [{ topic = "a" }]', "unknown key"),
        ('out = [{ filter = "a" }]\npassword_file = "p"', "no username"),
        (
            'out = [{ filter = "a" }]\n[[bridge]]\nname = "x"\nhost = "h"\nin=[{filter="a"}]',
            "twice",
        ),
    ],
)
def test_what_a_bridge_may_not_say(tmp_path, text, says):
    path = written(tmp_path, f'device = "a"\n[[bridge]]\nname = "x"\nhost = "h"\n{text}')
    with pytest.raises(ConfigError, match=says):
        load(path)


def test_a_key_that_others_may_read_is_none(tmp_path):
    text = 'device = "a"\n[[hub]]\nhost = "h"\nkey_file = "hub.key"'
    path = written(tmp_path, text)
    (hub,) = load(path).hub
    with pytest.raises(SecretUnusable, match="No such file"):
        hub.at()
    key = tmp_path / "hub.key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o640)
    with pytest.raises(SecretUnusable, match="chmod 600"):
        hub.at()
    key.chmod(0o600)
    assert hub.at().key == b"0123456789abcdef"
    assert "ok" in {found.state for found in findings(path) if found.what.startswith("hub h")}
    key.write_text("short")
    assert "missing" in {found.state for found in findings(path) if found.what.startswith("hub h")}
    with pytest.raises(SecretUnusable, match="5 bytes"):
        hub.at()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'device = "a"\n[broker]\nprot = 1',
            r'unknown key "prot" in \[broker\]; did you mean "port"',
        ),
        ('device = "a"\ncolour = 1', 'unknown key "colour"; known are: device, site'),
        (
            'device = "a"\n[[neighbour]]\nname = "b"\nhost = "x"\nprt = 1',
            r"in \[\[neighbour\]\] number 1.*port",
        ),
        ("[broker]\nport = 1", 'the key "device" is missing; add it'),
        ('device = "Lot 1"', "device"),
        ('device = "a"\nbroker = 3', '"broker" must be a table, not a whole number'),
        (
            'device = "a"\n[broker]\nport = 70000',
            r'"port" in \[broker\] must be a whole number <= 65535',
        ),
        (
            'device = "a"\n[model]\nthreads = 0',
            r'"threads" in \[model\] must be a whole number >= 1',
        ),
        (
            'device = "a"\n[sensor]\nfactory = "no colon"',
            r'"factory" in \[sensor\] must be written as "module:callable"',
        ),
        ('device = "a"\n[broker\n', "not TOML.*line 2.*correct that line"),
        ("device = ", "not TOML"),
        ('device = "a"\n[broker]\nport = "1883"', 'must be a whole number, not text in "quotes"'),
        ('device = "a"\n[broker]\nwebsocket_port = 1883', "both 1883; choose another"),
        (
            'device = "a"\n[[neighbour]]\nname = "b"',
            r'the key "host" is missing in \[\[neighbour\]\] number 1',
        ),
        ('device = "a"\n"line\\nbreak" = 1', "unknown key"),
        ('device = "a"\n[[neighbour]]\nname = "a"\nhost = "x"', "this device itself"),
        (
            'device = "a"\n[[neighbour]]\nname = "b"\nhost = "x"\n[[neighbour]]\nname = "b"\nhost = "y"',
            "twice",
        ),
        ('device = "a"\n[topology]\nkind = "star"', "must be one of static, ring, full, nearest"),
        ('device = "a"\n[tls]\ntags = "hmac"', r'"tags" in \[tls\] must be one of mac, signed'),
        ('device = "a"\n[users]\nanonymous = ""', "must be one of refused, viewer, device"),
        ('device = "a"\n[store]\ndurability = "disk"', "must be one of power, process"),
        ('device = "a"\n[store]\nrelay_log = "ram"', "must be one of memory, disk"),
        (
            'device = "a"\n[[hub]]\nhost = "h"\nintegrity = "no"',
            r'"integrity" in \[\[hub\]\] number 1 must be one of tag, none',
        ),
        ('device = "a"\n[model]\nedge_tpu = "on"', 'must be "auto", "off", or which one: "usb"'),
        (
            'device = "a"\n[topology]\nnear = 17',
            r'"near" in \[topology\] must be a whole number <= 16',
        ),
        ('device = "a"\n[discovery]\nseeds = ["b.local"]', "b.local.* is not host:port; write"),
        ('device = "a"\n[discovery]\nseeds = ["b:0"]', "is not host:port"),
        (
            'device = "a"\n[discovery]\nseeds = [1883]',
            r'"seeds\[0\]" in \[discovery\] must be text',
        ),
        ('device = "a"\n[discovery]\nmdsn = true', 'did you mean "mdns"'),
        (
            'device = "a"\n[topology]\nkind = "static"\n[discovery]\nmdns = true',
            "static dials whom .* names and nobody else; choose nearest",
        ),
        ('device = "a"\n[broker]\nhost = "0.0.0.0"', "not encrypted.*plain_listen = true"),
        ('device = "a"\n[broker]\nhost = "lot.local"', "plain_listen"),
        (
            'device = "a"\n[[neighbour]]\nname = "b"\nhost = "192.0.2.7"',
            "b is on another machine, .*flockmq enroll.*or write plain_listen = true",
        ),
        (
            'device = "a"\n[discovery]\nseeds = ["192.0.2.7:1883"]',
            'seed "192.0.2.7:1883" is on another',
        ),
        ('device = "a"\n[tls]\nport = 1883', r"port in \[tls\] is 1883, as one in \[broker\]"),
        (
            'device = "a"\n[tls]\nkey = "x"',
            r'unknown key "key" in \[tls\]; known are: identity, host, port',
        ),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_way_out(tmp_path, text, reason):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_unreadable_file_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "nothing.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'device = "\xe9"')
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "static"),
        ('[[neighbour]]\nname = "b"\nhost = "localhost"', "static"),
        ("[discovery]\nmdns = true", "nearest"),
        ('[discovery]\nseeds = ["[::1]:1883"]', "nearest"),
        ('[topology]\nkind = "ring"\n[discovery]\nmdns = true', "ring"),
        ('[topology]\nkind = "full"', "full"),
    ],
)
def test_the_topology_follows_the_discovery_unless_it_is_named(tmp_path, text, kind):
    assert load(written(tmp_path, f'device = "a"\n{text}')).kind == kind


def test_tls_opens_the_device_to_others_and_nothing_else(tmp_path):
    text = """device = "a"
        [tls]
        [[neighbour]]
        name = "b"
        host = "192.0.2.7"
        [discovery]
        seeds = ["192.0.2.8:8883"]"""
    config = load(written(tmp_path, text))
    assert (config.tls.host, config.tls.port) == ("0.0.0.0", 8883)
    assert config.tls.identity == str(tmp_path / "identity")
    assert config.links_port == 8883
    with pytest.raises(ConfigError, match="plain MQTT is not encrypted"):
        load(written(tmp_path, text + '\n[broker]\nhost = "0.0.0.0"'))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_loopback_needs_no_permission(tmp_path, host):
    assert load(written(tmp_path, f'device = "a"\n[broker]\nhost = "{host}"')).broker.host == host
