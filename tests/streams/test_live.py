"""Live users against a slate source that is made up: who does what, and that nothing is lost."""

import hashlib
import math
import shutil
import signal
from collections import Counter, defaultdict

import numpy as np
import pytest
from click.testing import CliRunner

from features.records import Conversion, Interaction, SlateRequest, Transaction, entity_of
from features.spec import DAY_MS, MINUTE_MS
from fintrec import logs
from fintrec.bank.mechanism import Mechanism, Moment, sigmoid
from fintrec.bank.simulate import BankSize, simulate
from fintrec.bank.surfaces import PLACES
from streams.__main__ import cli
from streams.live.future import draw_future
from streams.live.player import Pace, Player
from streams.live.run import run
from streams.live.yardstick import Yardstick
from streams.topics import CLICKSTREAM, CONVERSIONS, SLATE_REQUESTS, TRANSACTIONS

END_MS = 1_795_900_000_123
START_MS = 1_900_000_000_000
SPEED = 2_000.0
WALL_MS = 60_000


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live") / "bank"
    simulate(BankSize("test", 120, 20, 30, activity=3.0), 4, END_MS, folder)
    return folder


class FakeClock:
    def __init__(self):
        self.time_ms = START_MS

    def now_ms(self):
        return self.time_ms


class FakeExchange:
    """Answers each request after `latency_ms` with items by the request's id; time passes here."""

    def __init__(self, clock, items, latency_ms=25, loses=lambda record: False, edit=lambda s: s):
        self.sent, self.settled = [], False
        self._clock, self._items = clock, sorted(items, key=lambda item: item.item_id)
        self._latency_ms, self._loses, self._edit = latency_ms, loses, edit
        self._ready = []

    def send(self, outgoing):
        topic, record = outgoing
        self.sent.append((self._clock.time_ms, topic, record))
        if topic == SLATE_REQUESTS and not self._loses(record):
            slate = self._edit(slate_for(record, self._items))
            self._ready.append((self._clock.time_ms + self._latency_ms, slate))

    def hear(self, timeout_ms):
        self._clock.time_ms += max(1, timeout_ms)
        come = [slate for due, slate in self._ready if due <= self._clock.time_ms]
        self._ready = [(due, s) for due, s in self._ready if due > self._clock.time_ms]
        return come

    def settle(self):
        self.settled = True


def slate_for(request, items):
    """Items that depend on the page asked for and nothing else."""
    place = request.request_id.rpartition("-")[2]
    digest = hashlib.sha256(f"{place} {request.user_id}".encode()).digest()
    fitting = [item for item in items if request.product in item.products]
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    chosen = rng.choice(len(fitting), min(request.size, len(fitting)), replace=False)
    return {
        "request_id": request.request_id,
        "slate_id": f"s-{place}",
        "tier": "fresh",
        "items": [
            {
                "item_id": fitting[number].item_id,
                "position": position,
                "pctr": 0.05,
                "propensity": 0.5,
            }
            for position, number in enumerate(chosen.tolist(), start=1)
        ],
    }


def play(log_dir, seed=1, speed=SPEED, wall_ms=WALL_MS, users=None, heard=None, **fake):
    future, memory = draw_future(log_dir, users, seed, round(wall_ms * speed))
    clock = FakeClock()
    pace = Pace(START_MS, START_MS + wall_ms, speed, future.start_ms)
    player = Player(future, memory, pace, seed, "run", timeout_ms=2_000)
    exchange = FakeExchange(clock, future.catalogue.items, **fake)
    is_whole = run(player, exchange, clock, heard or (lambda: None))
    return future, player, exchange, is_whole


@pytest.fixture(scope="module")
def played(log_dir):
    return play(log_dir)


def interactions(exchange, *actions):
    return [r for _, t, r in exchange.sent if t == CLICKSTREAM and r.action in actions]


def test_clicks_come_at_the_rate_that_the_truth_says(played):
    _, player, _, _ = played
    counts = player.counts
    assert counts.shown > 2_000
    assert counts.clicks > 60
    assert abs(counts.clicks_z()) < 4


def test_every_request_is_answered_and_every_page_is_asked_for_or_not_reached(played):
    future, player, exchange, is_whole = played
    counts = player.counts
    assert is_whole
    assert exchange.settled
    assert player.is_done
    assert counts.requests == counts.answered == sum(counts.tiers.values()) > 500
    assert counts.unanswered == counts.late == counts.repeated == 0
    inside = int((future.pages.time_ms < future.end_ms).sum())
    assert counts.requests + counts.pages_not_reached == inside


def test_what_is_counted_is_what_was_sent(played):
    _, player, exchange, _ = played
    counts = player.counts
    sent = Counter()
    for _, topic, record in exchange.sent:
        if topic == CLICKSTREAM:
            is_public = record.action == "page_view" and not record.user_id
            sent["public_page_view" if is_public else record.action] += 1
        elif topic != SLATE_REQUESTS:
            sent[{TRANSACTIONS: "transaction", CONVERSIONS: "conversion"}[topic]] += 1
    assert sent == counts.events
    assert {"transaction", "conversion", "login", "logout", "public_page_view"} <= set(sent)
    assert (sent["impression"], sent["click"], sent["dismiss"]) == (
        counts.shown,
        counts.clicks,
        counts.dismissals,
    )
    assert sent["conversion"] == sum(counts.conversions.values())
    assert sum(topic == SLATE_REQUESTS for _, topic, _ in exchange.sent) == counts.requests


def test_everything_due_in_the_run_is_sent_and_the_rest_is_counted(played):
    future, player, _, _ = played
    events, after = player.counts.events, player.counts.after_the_end
    assert events["transaction"] + after["transaction"] == len(future.money.user)
    assert events["login"] + after["login"] == len(future.sessions.user)
    assert events["public_page_view"] + after["public_page_view"] == len(future.browsing.user)
    assert events["conversion"] + after["conversion"] >= len(future.goals.user)


def test_event_ids_are_unique_and_times_are_those_of_the_run(played):
    _, _, exchange, _ = played
    events = [r for _, _, r in exchange.sent if not isinstance(r, SlateRequest)]
    ids = [record.event_id for record in events]
    assert len(ids) == len(set(ids))
    for sent_ms, _, record in exchange.sent:
        assert START_MS <= record.event_time_ms <= sent_ms
        assert sent_ms - record.event_time_ms <= 21  # one turn of the loop
        assert entity_of(record)


def test_impressions_carry_the_slates_propensity_and_id(played):
    _, _, exchange, _ = played
    shown = interactions(exchange, "impression")
    assert {record.propensity for record in shown} == {0.5}
    assert all(record.slate_id.startswith("s-") and record.position >= 1 for record in shown)
    assert all(r.propensity is None for r in interactions(exchange, "click", "dismiss"))


def test_a_click_follows_the_impression_of_its_item_on_its_page(played):
    _, _, exchange, _ = played
    shown = {}
    for record in interactions(exchange, "impression", "click", "dismiss"):
        key = (record.user_id, record.item_id)
        if record.action == "impression":
            shown[key] = record
        else:
            impression = shown[key]
            assert impression.slate_id == record.slate_id
            assert impression.position == record.position
            assert 0 < record.event_time_ms - impression.event_time_ms < 30 * MINUTE_MS


def test_a_user_looks_at_one_page_at_a_time(played):
    _, _, exchange, _ = played
    waiting = defaultdict(int)
    for _, topic, record in exchange.sent:
        if topic == SLATE_REQUESTS:
            assert waiting[record.user_id] == 0
            waiting[record.user_id] += 1
        elif isinstance(record, Interaction) and record.action == "impression":
            waiting[record.user_id] = 0


def test_a_session_is_a_login_its_pages_and_perhaps_a_logout(played):
    _, player, exchange, _ = played
    order = defaultdict(list)
    for record in interactions(exchange, "login", "page_view", "impression", "logout"):
        if record.user_id:
            order[record.session_id].append(record.action)
    assert all(actions[0] == "login" for actions in order.values())
    assert all("logout" not in actions[:-1] for actions in order.values())
    assert player.counts.events["logout"] > 0.5 * player.counts.events["login"]


def test_the_future_goes_on_where_the_log_ended(log_dir):
    future, memory = draw_future(log_dir, None, 1, DAY_MS)
    assert future.start_ms == END_MS
    for times in (future.money.time_ms, future.sessions.start_ms, future.goals.time_ms):
        assert ((times >= END_MS) & (times < END_MS + DAY_MS)).all()
    travel = future.money.is_kind("purchase") & np.isin(future.money.mcc, _travel_codes())
    assert travel.sum() > 3  # somebody books a trip while the run goes on
    lifted = future.pages.fast_PN[:, 0] > 1.0  # and then looks at pages with a need for it
    assert set(future.pages.user[lifted].tolist()) & set(future.money.user[travel].tolist())
    assert (memory.seen_ms > END_MS - DAY_MS).any()  # what they saw before the log's end
    assert (memory.clicked_need_ms > 0).any()
    assert (memory.dismissed_ms > 0).any()


def _travel_codes():
    from features.categories import category_of
    from fintrec.bank.money import MCC_NAMES

    return [n for n, mcc in enumerate(MCC_NAMES) if category_of(mcc) == "travel"]


def what_happened(exchange):
    return sorted(
        (record.event_id, type(record).__name__, getattr(record, "item_id", ""))
        for _, _, record in exchange.sent
        if isinstance(record, Interaction | Transaction | Conversion)
    )


def test_the_same_seed_and_slates_give_the_same_reactions_whatever_the_latency(log_dir):
    _, one, quick, _ = play(log_dir, users=40, latency_ms=5)
    _, two, slow, _ = play(log_dir, users=40, latency_ms=60)
    _, other, _, _ = play(log_dir, users=40, latency_ms=5, seed=2)
    assert one.counts.pages_not_reached == two.counts.pages_not_reached == 0
    assert what_happened(quick) == what_happened(slow)
    assert len(what_happened(quick)) > 1_000
    assert one.counts.expected_clicks != other.counts.expected_clicks


def test_the_same_seed_gives_the_same_run(log_dir):
    _, _, one, _ = play(log_dir, users=40)
    _, _, two, _ = play(log_dir, users=40)
    assert one.sent == two.sent


def test_lost_requests_are_counted_and_their_users_go_on(log_dir):
    def loses(record):
        return record.request_id.endswith(("3", "7"))

    _, player, exchange, _ = play(log_dir, loses=loses)
    asked = [r for _, t, r in exchange.sent if t == SLATE_REQUESTS]
    lost = sum(map(loses, asked))
    assert player.counts.unanswered == lost > 50
    assert player.counts.answered == len(asked) - lost
    after = {r.user_id for r in asked if loses(r)}
    later = defaultdict(int)
    for record in asked:
        later[record.user_id] += 1
    assert sum(later[user] > 1 for user in after) > 0.5 * len(after)


def test_a_slate_that_comes_too_late_or_twice_shows_nothing_more(log_dir):
    _, player, exchange, _ = play(log_dir, users=30, latency_ms=2_500)
    counts = player.counts
    assert counts.answered == counts.shown == 0
    assert counts.unanswered == counts.requests > 20
    assert 0 < counts.late <= counts.unanswered  # the last ones come after the run
    assert not interactions(exchange, "impression", "click")
    future, memory = draw_future(log_dir, 30, 1, DAY_MS)
    player = Player(future, memory, Pace(0, WALL_MS, SPEED, future.start_ms), 1, "run")
    (request,) = [r for _, r in _first_request(player) if isinstance(r, SlateRequest)]
    slate = slate_for(request, future.catalogue.items)
    assert player.answer(slate, request.event_time_ms + 9)
    assert player.answer(slate, request.event_time_ms + 10) == []
    assert (player.counts.answered, player.counts.repeated) == (1, 1)
    assert player.answer({**slate, "request_id": "somebody-else"}, 0) == []


def _first_request(player):
    while True:
        records = player.due(player.next_ms)
        if any(isinstance(record, SlateRequest) for _, record in records):
            return records


def test_items_of_another_bank_are_counted_and_not_shown(log_dir):
    def edit(slate):
        slate["items"][0]["item_id"] = "of_another_bank"
        return slate

    _, player, exchange, _ = play(log_dir, users=30, edit=edit)
    assert player.counts.unknown_items == player.counts.answered > 20
    assert all(r.item_id != "of_another_bank" for r in interactions(exchange, "impression"))


def test_empty_slates_are_counted(log_dir):
    _, player, _, _ = play(log_dir, users=30, edit=lambda slate: {**slate, "items": []})
    assert player.counts.empty == player.counts.answered > 20
    assert player.counts.summary()["ctr"] is None


def test_ctrl_c_ends_the_run_with_everything_counted(log_dir):
    turns = iter(range(2_000))

    def heard():
        if next(turns) == 400:
            signal.raise_signal(signal.SIGINT)

    future, player, exchange, is_whole = play(log_dir, heard=heard, latency_ms=300)
    counts = player.counts
    assert not is_whole
    assert exchange.settled
    assert player.is_done
    assert counts.unanswered > 0
    assert counts.requests == counts.answered + counts.unanswered
    inside = int((future.pages.time_ms < future.end_ms).sum())
    assert counts.requests + counts.pages_not_reached == inside
    assert counts.after_the_end["not_sent"] > 0


def test_users_lags_are_compressed_by_the_speed():
    pace = Pace(1_000, 61_000, 60.0, 500_000)
    assert pace.at(500_000) == 1_000
    assert pace.at(500_000 + MINUTE_MS) == 2_000
    assert pace.after(5_000, MINUTE_MS) == 6_000
    assert pace.after(5_000, 1) == 5_001


def test_the_summary_says_how_far_clicks_are_from_the_truth(played):
    _, player, _, _ = played
    counts, found = player.counts, player.counts.summary()
    assert found["ctr"] == counts.clicks / counts.shown
    assert found["ctr_by_truth"] == pytest.approx(counts.expected_clicks / counts.shown)
    assert found["ctr_by_model"] == pytest.approx(0.05)
    z = (counts.clicks - counts.expected_clicks) / math.sqrt(counts.click_variance)
    assert found["clicks_z"] == pytest.approx(z)
    assert 25 <= found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] < 70


def test_the_best_page_is_no_worse_than_any_other_page_of_allowed_items(log_dir):
    future, memory = draw_future(log_dir, None, 1, DAY_MS)
    mechanism = Mechanism(future.catalogue)
    yardstick = Yardstick(mechanism, future.catalogue, future.people)
    rng = np.random.default_rng(0)
    pages, better = future.pages, 0
    for page in range(40):
        moment = Moment(
            *(getattr(pages, n)[page : page + 1] for n in ("user", "time_ms", "place")),
            *(getattr(pages, f"{n}_PN")[page : page + 1] for n in ("slow", "fast")),
            pages.outcome_ms_PO[page : page + 1],
            pages.sequence_ms_PS[page : page + 1],
        )
        num = PLACES[pages.place[page]].slots
        judged = yardstick.judge(rng, memory, moment, num)
        allowed = np.flatnonzero(judged.allowed)
        wants = mechanism.needs_now(memory, moment)
        for _ in range(20):
            shown = rng.permutation(allowed)[None, :num]
            logits = mechanism.click_logits(memory, moment, wants, shown)
            assert sigmoid(logits).sum() <= judged.best_clicks + 1e-12
        better += judged.logging_clicks < judged.best_clicks
    assert better > 30


def test_the_summary_compares_the_served_pages_with_others(played):
    _, player, _, _ = played
    found = player.counts.summary()
    assert found["ctr_of_best"] > 1.5 * found["ctr_by_truth"]  # these slates are by chance
    assert found["ctr_of_logging_policy"] < 0.7 * found["ctr_of_best"]
    # Slates by chance do not ask for consent, products or tenure.
    assert 0 < found["not_allowed_items"] < found["shown"]


def test_a_log_without_a_bank_behind_it_is_refused(tmp_path, log_dir):
    logs.write_manifest(tmp_path / "log", {"end_ms": END_MS, "seed": 4})
    with pytest.raises(logs.LogError, match=r"log\.truth: no hidden truth, expected a log of"):
        draw_future(tmp_path / "log", None, 0, DAY_MS)
    logs.write_manifest(tmp_path / "log", {"source": "elsewhere"})
    with pytest.raises(logs.LogError, match="'end_ms' is None"):
        draw_future(tmp_path / "log", None, 0, DAY_MS)
    with pytest.raises(ValueError, match="121 users asked for, the log has 120"):
        draw_future(log_dir, 121, 0, DAY_MS)


def of_live_verb(tmp_path, monkeypatch, log_dir, *options):
    monkeypatch.setenv("FINTREC_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    argv = ["simulate", "--live", "--log", str(log_dir), "--dir", str(tmp_path), *options]
    return CliRunner().invoke(cli, argv)


def test_a_log_that_is_not_there_is_named(tmp_path, monkeypatch):
    refused = of_live_verb(tmp_path, monkeypatch, tmp_path / "nosuch")
    assert isinstance(refused.exception, logs.LogError)
    assert str(refused.exception).startswith(f"{tmp_path / 'nosuch'}: no such folder, expected a")


def test_a_truth_that_is_not_whole_is_named_and_not_taken_for_wrong_users(
    tmp_path, monkeypatch, log_dir
):
    log, hidden = tmp_path / "log", tmp_path / "log.truth"
    log.symlink_to(log_dir)
    refused = of_live_verb(tmp_path, monkeypatch, log)
    assert isinstance(refused.exception, logs.LogError)
    assert f"{hidden}: no hidden truth, expected a log of" in str(refused.exception)

    whole = log_dir.with_name(f"{log_dir.name}.truth")
    for broken in ("items.parquet", "users/part-0.parquet"):
        shutil.copytree(whole, hidden)
        path = hidden / broken
        path.write_bytes(path.read_bytes()[:-9])
        refused = of_live_verb(tmp_path, monkeypatch, log)
        assert isinstance(refused.exception, logs.LogError)
        assert f"{path}: not a readable Parquet file" in str(refused.exception)
        path.unlink()
        refused = of_live_verb(tmp_path, monkeypatch, log)
        assert isinstance(refused.exception, logs.LogError)
        assert f"{hidden}/{broken.split('/', maxsplit=1)[0]}: no " in str(refused.exception)
        shutil.rmtree(hidden)

    too_many = of_live_verb(tmp_path, monkeypatch, log_dir, "--users", "121")
    assert too_many.exit_code == 2
    assert "Invalid value for --users: 121 users asked for" in too_many.output


def test_the_verb_is_simulate_with_one_flag_more(tmp_path):
    runner = CliRunner()
    plain = runner.invoke(cli, ["simulate", "--help"]).output
    live = runner.invoke(cli, ["simulate", "--live", "--help"]).output
    assert "--out" in plain
    assert "--live" in plain
    assert "--speed" in live
    assert "--out" not in live
    nothing = runner.invoke(cli, ["simulate", "--live", "--dir", str(tmp_path)])
    assert "kafka_bootstrap is not set" in str(nothing.exception)
