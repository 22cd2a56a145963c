"""What hypothesis draws of the protocol."""

from hypothesis import strategies as st

from broker.mesh.bundle import Header, is_kept
from broker.mesh.limits import CLOCK_MAX

u63 = st.integers(1, 2**63 - 1)
ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=32)


@st.composite
def headers(draw):
    lane = draw(st.integers(0, 9))
    to = draw(ids) if is_kept(lane) and draw(st.booleans()) else ""
    first = is_kept(lane) and not to and draw(st.booleans())
    incarnation = draw(st.integers(2, 2**32 - 1))
    closes = draw(st.none() | st.tuples(st.integers(0, incarnation - 1), u63)) if first else None
    return Header(
        draw(ids),
        lane,
        incarnation,
        1 if first else draw(u63),
        draw(st.integers(1, 4096)),
        draw(st.integers(1, CLOCK_MAX - 1)),
        draw(st.integers(0, 2**32 - 2)),
        draw(st.integers(0, 300_000)),
        closes,
        first and closes is None and draw(st.booleans()),
        () if is_kept(lane) else tuple(draw(st.lists(st.integers(0, 2**64 - 1), max_size=8))),
        *draw(st.sampled_from([(0, b""), (1, bytes(32)), (2, bytes(96))])),
        to,
    )
