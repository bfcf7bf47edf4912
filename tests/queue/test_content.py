"""Content as an attempt reads it: small content once, large content piece by piece."""

from hashlib import sha256

import attrs
import pytest

from elemta.queue.content import StoredContent
from elemta.storage.base import ContentMissing, Insert
from elemta.storage.records import INLINE_CONTENT_OCTETS, ContentRef
from tests.queue.world import FaultyStore, mail

SMALL = bytes(range(256)) * 40
LARGE = b"0123456789abcdef" * (INLINE_CONTENT_OCTETS // 16 + 1)


async def stored(octets: bytes) -> tuple[FaultyStore, ContentRef]:
    store = FaultyStore()
    return store, await put(store, octets)


async def put(store: FaultyStore, octets: bytes) -> ContentRef:
    ref = ContentRef(mail(1).id, len(octets), eight_bit=True)
    await store.commit([Insert(mail(1, content=ref), octets)])
    return ref


async def whole(content: StoredContent, limit: int) -> bytes:
    octets = b""
    while piece := await content.read(len(octets), limit):
        assert len(piece) <= limit
        octets += piece
    return octets


async def test_small_content_is_read_from_the_store_once() -> None:
    store, ref = await stored(SMALL)
    content = StoredContent(store, ref, None)
    assert (content.size, content.eight_bit) == (len(SMALL), True)
    assert await whole(content, 1000) == await whole(content, 10**6) == SMALL
    assert store.reads == 1


async def test_content_at_hand_is_never_read_from_the_store() -> None:
    store, ref = await stored(SMALL)
    assert await whole(StoredContent(store, ref, SMALL), 1000) == SMALL
    assert store.reads == 0


async def test_large_content_is_read_as_it_is_asked_for() -> None:
    store, ref = await stored(LARGE)
    content = StoredContent(store, ref, None)
    assert await content.read(16, 5) == b"01234"
    assert store.reads == 1
    assert await whole(content, 65_536) == LARGE
    assert store.reads == 1 + len(LARGE) // 65_536 + 2


async def test_a_store_that_gives_less_than_asked_is_asked_again() -> None:
    class Short(FaultyStore):
        async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
            return await super().read(ref, offset, min(limit, 999)) if offset < self.most else b""

        most = len(SMALL)

    store = Short()
    ref = await put(store, SMALL)
    assert await whole(StoredContent(store, ref, None), 10**6) == SMALL
    store.most = 2000
    with pytest.raises(ContentMissing, match="ends after 2997 of 10240"):
        await StoredContent(store, ref, None).read(0, 10)


@pytest.mark.parametrize("octets", [SMALL, LARGE], ids=["small", "large"])
async def test_content_that_is_not_what_came_in_is_not_read_to_its_end(octets: bytes) -> None:
    store, ref = await stored(octets)
    sound = attrs.evolve(ref, digest=sha256(octets).hexdigest())
    assert await whole(StoredContent(store, sound, None), 50_000) == octets
    damaged = attrs.evolve(ref, digest=sha256(octets + b"!").hexdigest())
    content = StoredContent(store, damaged, None)
    with pytest.raises(ContentMissing, match=f"{ref.id} is damaged"):
        await whole(content, 50_000)
    # Read again from its beginning, it is checked again.
    with pytest.raises(ContentMissing, match="damaged"):
        await whole(content, 50_000)


async def test_large_content_may_be_looked_into_before_it_is_read() -> None:
    store, ref = await stored(LARGE)
    content = StoredContent(store, attrs.evolve(ref, digest=sha256(LARGE).hexdigest()), None)
    assert await content.read(0, 100) == LARGE[:100]
    assert await content.read(5000, 10) == LARGE[5000:5010]
    assert await whole(content, 50_000) == LARGE
