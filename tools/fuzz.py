"""`make fuzz`: coverage-guided bytes into the codec and into `mesh.receive`, for as long as libFuzzer is told.

Each input is a row of (time step, kind, length, body): records are put into sound frames, so that the fuzzer need not
guess checksums; kind 255 stands for a raw frame. An exception, or a mesh that asks for a turn at the same moment again
and again, is a finding; libFuzzer prints it and keeps the input in the working directory. The golden frames are the
first inputs. Needs atheris, which has wheels for few platforms.
"""

import json
import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["broker.mesh"]):
    from broker.mesh import frame
    from broker.mesh.control import Hello, encode_control
    from broker.mesh.limits import MS
    from broker.mesh.mesh import Mesh

NOW_NS = 10**12
RAW = 255
ROUNDS_MAX = 64
GOLDEN = Path(__file__).parents[1] / "tests/data/frames"
HELLO = frame.encode_frame([encode_control(Hello(1, "b", 1, 0, 1, True))])


def turn(mesh: Mesh, now_ns: int) -> None:
    """What a driver does, until the mesh asks for no more at this moment."""
    for _ in range(ROUNDS_MAX):
        mesh.seal(now_ns)
        mesh.take_changes()
        while mesh.next_event() is not None:
            pass
        mesh.frames_to_send("b", 1 << 20, now_ns)
        if mesh.next_timer() > now_ns:
            return
        mesh.handle_timer(now_ns)
    raise RuntimeError("the mesh spins")


def one_input(data: bytes) -> None:
    """Play one story."""
    mesh = Mesh("a", Random(1), now_ns=NOW_NS, wall_ms=1_700_000_000_000)
    mesh.publish("t", b"x", NOW_NS, qos=1, retained=True)
    mesh.link_up("b", NOW_NS)
    mesh.receive("b", HELLO, NOW_NS)
    now_ns, at = NOW_NS, 0
    while at + 4 <= len(data):
        step, kind, length = data[at], data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 4 + length]
        at += 4 + length
        now_ns += step * 10 * MS
        if kind == RAW:
            mesh.receive("b", body, now_ns)
        else:
            mesh.receive("b", frame.encode_frame([frame.record(kind, body)]), now_ns)
        turn(mesh, now_ns)
    for _ in range(10):
        now_ns = max(now_ns, mesh.next_timer())
        turn(mesh, now_ns)


def seeds(corpus: Path) -> None:
    """Write the golden records as first inputs."""
    corpus.mkdir(parents=True, exist_ok=True)
    for path in GOLDEN.glob("*.json"):
        story = b""
        golden = json.loads(path.read_text())
        if "records" not in golden:
            continue  # hashes and envelopes
        for kind, body in frame.decode_frame(bytes.fromhex(golden["frame"])):
            story += bytes((1, kind)) + len(body).to_bytes(2, "big") + body[:65_535]
        (corpus / path.stem).write_bytes(story)


def main() -> None:
    """Run libFuzzer; the last argument is the corpus."""
    seeds(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
