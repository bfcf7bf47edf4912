"""What a batch does to its mails, decided and written down without a database."""

import attrs
import pytest

from elemta.storage.base import Begin, Change, Insert, Result, Settle, Withdraw
from elemta.storage.codec import MAIL_COLUMNS
from elemta.storage.records import QueueState
from elemta.storage.shared_ledger import Holding, Ledger, Looked, Standing, Writes, wanted_by
from tests.storage.mails import OCTETS, START, Post, attempt

APPLIED, FENCED, GONE, REFUSED = Result.APPLIED, Result.FENCED, Result.GONE, Result.REFUSED
SIZE = len(OCTETS)
OWNER, SINCE = MAIL_COLUMNS.index("owner"), MAIL_COLUMNS.index("attempting_since")


def decided(looked: Looked, *batch: Change) -> tuple[list[Result], Writes]:
    ledger = Ledger(looked)
    return [ledger.apply(change) for change in batch], ledger.writes()


def standing(insert: Insert, **changes: object) -> Standing:
    mail = insert.mail
    plain = Standing(mail.id, "active", "one", 5, 0, None, mail.content.id)
    return attrs.evolve(plain, **changes)  # type: ignore[arg-type]  # what a test knows


def there(*standings: Standing, mails: int = 1) -> Looked:
    """These mails and their content, with the node that owns them."""
    contents = {each.content_id: Holding(each.content_id, SIZE, mails) for each in standings}
    return Looked({"one": 5}, {each.id: each for each in standings}, contents)


def test_a_new_mail_comes_and_leaves_in_one_batch_without_a_trace(post: Post) -> None:
    insert = post.insert(owner="one")
    batch: list[Change] = [
        insert,
        Begin(insert.mail.id, "one", 5, START),
        Settle(insert.mail.id, "one", 5, None, (attempt(),)),
    ]
    results, writes = decided(there(), *batch)
    assert results == [APPLIED] * 3
    assert len(writes.attempts) == 1
    assert attrs.evolve(writes, attempts=[]) == Writes()


def test_an_attempt_that_begins_on_a_new_mail_is_written_with_it(post: Post) -> None:
    insert = post.insert(owner="one")
    results, writes = decided(there(), insert, Begin(insert.mail.id, "one", 5, START + 3))
    assert results == [APPLIED, APPLIED]
    ((row,), begins) = writes.mails, writes.begins
    assert (row[OWNER], row[SINCE], row[-1], begins) == ("one", START + 3, 5, [])
    assert writes.tally == {"active": 1}


def test_the_last_of_two_states_is_the_one_that_is_written(post: Post) -> None:
    insert = post.insert()
    mail = attrs.evolve(insert.mail, owner="one")
    later = attrs.evolve(mail, state=QueueState.DEFERRED, reason="busy")
    looked = there(standing(insert))
    batch: list[Change] = [
        Settle(mail.id, "one", 5, mail),
        Begin(mail.id, "one", 5, START),
        Settle(mail.id, "one", 5, later),
    ]
    results, writes = decided(looked, *batch, Begin(mail.id, "one", 5, START))
    assert results == [APPLIED] * 3 + [FENCED]
    (row,) = writes.changes
    assert (row[1], row[OWNER], row[SINCE], row[-1]) == ("deferred", "", None, 0)
    assert (writes.begins, writes.tally) == ([], {"active": -1, "deferred": 1})


def test_a_mail_that_left_may_come_again_in_the_same_batch(post: Post) -> None:
    insert = post.insert()
    results, writes = decided(there(standing(insert, owner="", token=0)), Withdraw(insert.mail.id), insert)
    assert results == [APPLIED, APPLIED]
    assert writes.leaving_mails == [insert.mail.id]
    assert writes.leaving_contents == [insert.mail.content.id]
    assert [row[0] for row in writes.mails] == [insert.mail.id]
    assert writes.contents == [(insert.mail.content.id, OCTETS, 1)]
    assert writes.tally == {}


@pytest.mark.parametrize(("mails", "leaving", "recounts"), [(1, True, []), (2, False, [1]), (7, False, [6])])
def test_content_leaves_with_the_last_mail_that_is_counted(
    post: Post, mails: int, leaving: bool, recounts: list[int]
) -> None:
    insert = post.insert()
    results, writes = decided(there(standing(insert), mails=mails), Settle(insert.mail.id, "one", 5, None))
    assert results == [APPLIED]
    assert (writes.leaving_contents == [insert.mail.content.id]) is leaving
    assert [count for _, count in writes.recounts] == recounts


def test_a_report_keeps_the_content_of_the_mail_that_leaves(post: Post) -> None:
    insert = post.insert()
    report = Insert(post.mail(content=insert.mail.content))
    settle = Settle(insert.mail.id, "one", 5, None, (), (report,))
    results, writes = decided(there(standing(insert)), settle)
    assert (results, writes.leaving_contents, writes.recounts, writes.contents) == ([APPLIED], [], [], [])


def test_content_that_is_not_whole_is_none(post: Post) -> None:
    insert = Insert(post.mail())
    content_id = insert.mail.content.id
    assert decided(Looked(contents={content_id: Holding(content_id, -1, 0)}), insert) == ([REFUSED], Writes())
    results, writes = decided(Looked(contents={content_id: Holding(content_id, SIZE, 0)}), insert)
    assert (results, writes.recounts) == ([APPLIED], [(content_id, 1)])


@pytest.mark.parametrize(
    ("owner", "token", "nodes", "result", "kept"),
    [
        ("", None, {}, APPLIED, ("", 0)),
        ("one", None, {"one": 5}, APPLIED, ("one", 5)),
        ("one", 5, {"one": 5}, APPLIED, ("one", 5)),
        ("one", 4, {"one": 5}, FENCED, ("", 0)),
        ("one", 5, {}, FENCED, ("", 0)),
        ("one", None, {}, FENCED, ("", 0)),
    ],
)
def test_only_the_latest_token_gives_a_node_its_mail(
    post: Post, owner: str, token: int | None, nodes: dict[str, int], result: Result, kept: tuple[str, int]
) -> None:
    insert = attrs.evolve(post.insert(owner=owner, attempting_since=START), token=token)
    results, writes = decided(Looked(nodes), insert)
    (row,) = writes.mails
    assert (results, (row[OWNER], row[-1])) == ([result], kept)
    assert row[SINCE] == (START if kept[0] else None)


@pytest.mark.parametrize(
    ("token", "now", "result"),
    [
        (None, ("two", 9), APPLIED),
        (5, ("one", 5), APPLIED),
        (5, ("one", 6), FENCED),
        (5, ("two", 9), FENCED),
        (5, ("", 0), FENCED),
    ],
)
def test_an_insert_repeated_says_whose_the_mail_is(
    post: Post, token: int | None, now: tuple[str, int], result: Result
) -> None:
    insert = attrs.evolve(post.insert(owner="one"), token=token)
    looked = there(standing(insert, owner=now[0], token=now[1]))
    assert decided(looked, insert) == ([result], Writes())


def test_only_what_a_batch_needs_is_looked_up(post: Post) -> None:
    new, own, shared = post.insert(owner="one"), post.new_id(), Insert(post.mail(content=post.mail().content))
    gone, odd = Settle(post.new_id(), "two", 1, None), Withdraw("../x")
    batch: list[Change] = [new, Begin(own, "two", 1, START), shared, gone, odd]
    fresh = wanted_by(batch, is_fresh=True)
    assert (fresh.owners, fresh.mails) == (["one"], sorted([own, gone.id]))
    assert fresh.contents == [shared.mail.content.id]
    assert fresh.leaving == {gone.id, odd.id}
    whole = wanted_by(batch)
    assert whole.mails == sorted([own, gone.id, new.mail.id, shared.mail.id])
    assert whole.contents == sorted([new.mail.content.id, shared.mail.content.id])


def test_a_refused_settlement_has_changed_nothing(post: Post) -> None:
    insert = post.insert()
    settle = Settle(insert.mail.id, "one", 5, None, (attempt(),), (post.insert(), Insert(post.mail())))
    results, writes = decided(there(standing(insert)), settle, Withdraw(post.new_id()))
    assert (results, writes) == ([REFUSED, GONE], Writes())
