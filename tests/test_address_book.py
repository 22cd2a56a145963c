"""Who is known, and who makes way."""

from broker.address_book import KNOWN_MAX, AddressBook, Source
from broker.link import Neighbour


def there(name, host="192.0.2.1", port=1883):
    return Neighbour(name, host, port)


def names(book):
    return {entry.neighbour.name for entry in book}


def test_only_what_is_new_is_news():
    book = AddressBook("a")
    assert book.learn(there("b"), Source.MDNS, 1)
    assert not book.learn(there("b"), Source.MDNS, 2)
    assert book.learn(there("b", port=1884), Source.MDNS, 3)
    assert book.get("b").neighbour.port == 1884
    assert not book.learn(there("a"), Source.MDNS, 4), "this device itself"
    assert names(book) == {"b"}


def test_what_a_person_wrote_counts_before_what_is_announced():
    book = AddressBook("a")
    book.learn(there("b", "10.0.0.1"), Source.CONFIGURED, 1)
    assert not book.learn(there("b", "10.0.0.66"), Source.MDNS, 2)
    assert not book.learn(there("b", "10.0.0.67"), Source.SEED, 2)
    book.withdraw("b", Source.MDNS)
    assert book.get("b").neighbour.host == "10.0.0.1"
    assert not book.get("b").gone
    book.learn(there("c", "10.0.0.66"), Source.MDNS, 2)
    assert book.learn(there("c", "10.0.0.1"), Source.SEED, 3)
    assert book.get("c").source is Source.SEED


def test_one_that_is_announced_again_is_back():
    book = AddressBook("a")
    entry = book.learn(there("b"), Source.MDNS, 1)
    entry.away_until_s = 100
    book.withdraw("b", Source.MDNS)
    assert entry.gone
    assert book.learn(there("b"), Source.MDNS, 2) is entry
    assert not entry.gone
    assert entry.away_until_s == 0


def test_a_flood_of_invented_devices_takes_no_place_from_those_that_answered():
    book = AddressBook("a")
    book.learn(there("configured"), Source.CONFIGURED, 0)
    for number in range(10):
        book.learn(there(f"real-{number}"), Source.MDNS, 0).answered = True
    for number in range(5000):
        assert book.learn(there(f"bogus-{number}"), Source.MDNS, 1)
        assert len(book) <= KNOWN_MAX
    assert book.evicted == 11 + 5000 - KNOWN_MAX
    assert {"configured", *(f"real-{number}" for number in range(10))} <= names(book)
    assert book.learn(there("late"), Source.MDNS, 2), "and one that is real still comes in"


def test_where_all_have_answered_there_is_no_room():
    book = AddressBook("a")
    for number in range(KNOWN_MAX):
        book.learn(there(f"real-{number}"), Source.MDNS, 0).answered = True
    assert not book.learn(there("late"), Source.MDNS, 1)
    assert book.refused == 1
