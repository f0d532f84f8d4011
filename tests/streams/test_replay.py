import json
import signal
import subprocess
import sys
from collections.abc import Container
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from click.testing import CliRunner
from kafka.errors import KafkaTimeoutError

from features.border import to_record
from features.records import entity_of
from features.spec import DAY_MS
from fintrec import logs
from fintrec.bank.simulate import BankSize, simulate
from fintrec.bank.truth import truth_dir
from streams import replay
from streams.commands.publish import publish
from streams.commands.topics import topics
from streams.replay import Outgoing, Pace, Period, Progress, PublishError
from streams.topics import CLICKSTREAM, CONSENTS, ITEMS, TOPICS
from tests.integration.wire import until

# kafka-python 3.0.12 reads its own protocol files by a call that Python 3.11 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")

END_MS = 1_795_900_000_123


@pytest.fixture(scope="module")
def bank_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log_dir = tmp_path_factory.mktemp("bank") / "log"
    simulate(BankSize("test", 12, 6), 5, END_MS, log_dir)
    return log_dir


class FakeCluster:
    """Takes records; from the send numbered `fails_at` on, none is acknowledged.

    Answers come when they are awaited; with `answers_at_once` all but those numbered in `is_slow`
    are there when the record was sent.
    """

    def __init__(
        self,
        fails_at: int | None = None,
        answers_at_once: bool = False,
        is_slow: Container[int] = (),
    ) -> None:
        self.taken: list[tuple[str, bytes, bytes]] = []
        self.fails_at = fails_at
        self.answers_at_once, self.is_slow = answers_at_once, is_slow

    def send(self, topic, key, value):
        self.taken.append((topic, key, value))
        number = len(self.taken)
        return FakeAnswer(
            self.fails_at is not None and number > self.fails_at,
            self.answers_at_once and number not in self.is_slow,
        )


class FakeAnswer:
    def __init__(self, fails: bool, is_done: bool) -> None:
        self.fails, self.is_done = fails, is_done

    def get(self, timeout=None):
        self.is_done = True
        if self.fails:
            raise KafkaTimeoutError("no answer")


def run(log_dir, path, cluster, period=None, pace=None, heard=lambda number: None):
    before = Progress.load(path, "r")
    events = replay.outgoing(log_dir, period or Period())
    return replay.replay(events, cluster.send, before, path, pace or Pace(), heard)


def test_everything_is_sent_once_in_order_of_event_time_items_and_consents_first(bank_log):
    sent = list(replay.outgoing(bank_log, Period()))
    rows = sum(logs.read_table(bank_log, name).num_rows for name in logs.RECORDS)
    assert len(sent) == sum(replay.counts(bank_log, Period()).values()) == rows
    ahead = [event for event in sent if event.event_time_ms is None]
    assert sent[: len(ahead)] == ahead
    assert [event.topic for event in ahead] == sorted(
        (event.topic for event in ahead), key=[ITEMS, CONSENTS].index
    )
    times = [event.event_time_ms for event in sent[len(ahead) :]]
    assert times == sorted(times)


def test_every_value_is_a_record_of_its_topic_under_the_key_of_its_topic(bank_log):
    for event in replay.outgoing(bank_log, Period()):
        topic = TOPICS[event.topic]
        assert topic.record is not None
        record = to_record(orjson.loads(event.value), topic.record)
        key = record.item_id if event.topic == ITEMS else entity_of(record)
        assert event.key.decode() == key
        assert len(event.value) < 65_536


def test_a_period_bounds_events_but_not_what_they_are_judged_by(bank_log):
    period = Period(END_MS - 2 * DAY_MS, END_MS - DAY_MS)
    sent = list(replay.outgoing(bank_log, period))
    times = [event.event_time_ms for event in sent if event.event_time_ms is not None]
    assert period.from_ms <= min(times) <= max(times) < period.to_ms
    assert len(sent) == sum(replay.counts(bank_log, period).values())
    consents = logs.read_table(bank_log, CONSENTS)["event_time_ms"].to_pylist()
    assert [e.topic for e in sent].count(CONSENTS) == sum(t < period.to_ms for t in consents)


def test_only_some_topics_can_be_sent(bank_log):
    sent = list(replay.outgoing(bank_log, Period(topics=(CLICKSTREAM,))))
    assert {event.topic for event in sent} == {CLICKSTREAM}


def test_a_failed_send_ends_the_replay_and_the_next_one_goes_on_there(bank_log, tmp_path):
    path, whole = tmp_path / "progress.json", FakeCluster()
    run(bank_log, tmp_path / "other.json", whole)
    broken = FakeCluster(fails_at=700)
    with pytest.raises(PublishError, match="was not acknowledged: KafkaTimeoutError"):
        run(bank_log, path, broken)
    assert json.loads(path.read_text()) == {"replay_id": "r", "num_acknowledged": 700}
    rest = FakeCluster()
    after = run(bank_log, path, rest)
    assert broken.taken[:700] + rest.taken == whole.taken
    assert after.num_acknowledged == len(whole.taken)


def test_a_finished_replay_sends_nothing_more(bank_log, tmp_path):
    run(bank_log, tmp_path / "progress.json", FakeCluster())
    again = FakeCluster()
    run(bank_log, tmp_path / "progress.json", again)
    assert again.taken == []


def test_progress_counts_acknowledged_records_only(bank_log, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "MAX_UNACKNOWLEDGED", 100)
    path, broken = tmp_path / "progress.json", FakeCluster(fails_at=0)
    with pytest.raises(PublishError):
        run(bank_log, path, broken)
    assert Progress.load(path, "r").num_acknowledged == 0
    assert len(broken.taken) == 101


def a_pace_that_ends(after: int) -> Pace:
    """Real time between events, and Ctrl-C in the pause with this number."""
    now_s, pauses = [0.0], iter(range(1, after + 1))

    def sleep(wait_s):
        now_s[0] += wait_s
        if next(pauses) == after:
            raise KeyboardInterrupt

    return Pace(1.0, lambda: now_s[0], sleep)


def test_ctrl_c_of_a_paced_replay_saves_all_that_was_acknowledged_until_then(bank_log, tmp_path):
    path, heard = tmp_path / "progress.json", []
    cluster = FakeCluster(answers_at_once=True)
    with pytest.raises(KeyboardInterrupt):
        run(bank_log, path, cluster, pace=a_pace_that_ends(10), heard=heard.append)
    num_ahead = sum(e.event_time_ms is None for e in replay.outgoing(bank_log, Period()))
    assert len(cluster.taken) > num_ahead > 0
    assert Progress.load(path, "r").num_acknowledged == sum(heard) == len(cluster.taken)


def test_what_was_acknowledged_behind_one_that_was_not_is_sent_again(bank_log, tmp_path):
    path = tmp_path / "progress.json"
    cluster = FakeCluster(answers_at_once=True, is_slow={8})
    with pytest.raises(KeyboardInterrupt):
        run(bank_log, path, cluster, pace=a_pace_that_ends(10))
    assert len(cluster.taken) > 8
    assert Progress.load(path, "r").num_acknowledged == 7


def test_acknowledgements_that_came_before_the_error_are_counted(bank_log, tmp_path):
    path, cluster = tmp_path / "progress.json", FakeCluster()
    answers = []

    def send(topic, key, value):
        if len(answers) == 40:  # the answers come, and then the next record finds no room
            for answer in answers:
                answer.is_done = True
            raise KafkaTimeoutError("no room")
        answers.append(cluster.send(topic, key, value))
        return answers[-1]

    events = replay.outgoing(bank_log, Period())
    with pytest.raises(PublishError, match="no room"):
        replay.replay(events, send, Progress("r", 0), path, Pace(), lambda number: None)
    assert Progress.load(path, "r").num_acknowledged == 40


def test_a_refused_record_is_noticed_at_once(bank_log, tmp_path):
    path = tmp_path / "progress.json"
    cluster = FakeCluster(fails_at=30, answers_at_once=True)
    with pytest.raises(PublishError, match="was not acknowledged"):
        run(bank_log, path, cluster)
    assert len(cluster.taken) == 31
    assert Progress.load(path, "r").num_acknowledged == 30


def test_progress_of_another_replay_is_not_taken(tmp_path):
    Progress("r", 5).save(tmp_path / "progress.json")
    assert Progress.load(tmp_path / "progress.json", "r").num_acknowledged == 5
    assert Progress.load(tmp_path / "progress.json", "other").num_acknowledged == 0


def test_a_broken_progress_file_is_an_error(tmp_path):
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(PublishError, match="not a progress file"):
        Progress.load(tmp_path / "progress.json", "r")


def test_pace_holds_events_back_by_their_times_and_nothing_else():
    now_s = [100.0]
    waits = []

    def sleep(wait_s):
        waits.append(wait_s)
        now_s[0] += wait_s

    events = [Outgoing("t", b"", b"", time_ms) for time_ms in (None, 5_000, 5_000, 25_000)]
    looks = []
    pace = Pace(10.0, lambda: now_s[0], sleep)
    assert list(pace.keep(iter(events), lambda: looks.append(now_s[0]))) == events
    assert sum(waits) == 2.0
    assert max(waits) == replay.LONGEST_SLEEP_S  # a long pause is no time without a look
    assert len(looks) == len(waits)


def test_contradicting_options_are_bad_usage(bank_log):
    runner = CliRunner()
    assert runner.invoke(publish, [str(bank_log), "--asap", "--speed", "2"]).exit_code == 2
    assert runner.invoke(publish, [str(bank_log), "--only", "slates.v1"]).exit_code == 2
    assert runner.invoke(publish, [str(bank_log), "--from", "yesterday"]).exit_code == 2
    assert runner.invoke(publish, [str(bank_log / "absent")]).exit_code == 2


@pytest.fixture
def cluster(monkeypatch):
    """What the verb publishes to, instead of the stack's brokers."""
    fake = FakeCluster(answers_at_once=True)
    monkeypatch.setattr("streams.commands.publish._cluster_id", lambda settings: "fake")
    monkeypatch.setattr("streams.commands.publish._send", lambda settings: nullcontext(fake.send))
    return fake


def published(log_dir, stack_dir, *options):
    return CliRunner().invoke(publish, [str(log_dir), "--dir", str(stack_dir), *options])


def test_a_folder_that_is_no_log_is_refused(bank_log, tmp_path, cluster):
    (tmp_path / "empty").mkdir()
    (tmp_path / "set" / "decisions").mkdir(parents=True)
    (tmp_path / "set" / "items.parquet").write_text("")
    for folder in (tmp_path / "empty", tmp_path / "set", truth_dir(bank_log)):
        refused = published(folder, tmp_path)
        assert isinstance(refused.exception, logs.LogError)
        assert f"{folder}: no files of items.v1, consents.v1" in str(refused.exception)
        assert "expected a LOG_DIR" in str(refused.exception)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / ITEMS).symlink_to(bank_log / ITEMS)
    assert "no files of clickstream.v1," in str(
        published(tmp_path / "log", tmp_path, "--only", CLICKSTREAM).exception
    )
    assert cluster.taken == []
    assert published(tmp_path / "log", tmp_path).exit_code == 0
    assert {topic for topic, _, _ in cluster.taken} == {ITEMS}


def iso(time_ms):
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


@pytest.mark.parametrize(
    "options",
    [
        ("--from", iso(END_MS), "--to", iso(END_MS)),
        ("--from", iso(END_MS), "--to", iso(END_MS - 1_000)),
        ("--days", "1", "--to", iso(END_MS - 2 * DAY_MS)),
    ],
)
def test_a_period_that_ends_before_it_begins_is_bad_usage(bank_log, tmp_path, cluster, options):
    refused = published(bank_log, tmp_path, *options)
    assert refused.exit_code == 2
    assert "must be before --to" in " ".join(refused.output.split())
    assert cluster.taken == []


def test_a_period_without_events_is_said_with_what_the_log_covers(bank_log, tmp_path, cluster):
    times = [
        time_ms
        for topic in replay.TOPICS[2:]
        for time_ms in logs.read_table(bank_log, topic)["event_time_ms"].to_pylist()
    ]
    covers = f"{bank_log} covers {iso(min(times))} to {iso(max(times))}"
    done = published(bank_log, tmp_path, "--from", iso(END_MS + DAY_MS))
    assert done.exit_code == 0
    assert f"no events from {iso(END_MS + DAY_MS)[:-10]}" in done.stdout
    assert covers in done.stdout
    assert {topic for topic, _, _ in cluster.taken} == {ITEMS, CONSENTS}
    done = published(bank_log, tmp_path, "--to", iso(END_MS - 900 * DAY_MS), "--json")
    assert json.loads(done.stdout)["acknowledged"] > 0
    assert covers in done.stderr
    assert "no events" not in published(bank_log, tmp_path, "--days", "1").output
    assert "no events" not in published(bank_log, tmp_path, "--only", ITEMS).output


def test_a_second_publish_beside_the_same_one_is_refused(bank_log, tmp_path, cluster):
    beside = []
    send = cluster.send

    def sends_and_is_asked_again(topic, key, value):
        if not beside:
            beside.append(published(bank_log, tmp_path, "--restart"))
            beside.append(published(bank_log, tmp_path, "--only", ITEMS))
        return send(topic, key, value)

    cluster.send = sends_and_is_asked_again
    assert published(bank_log, tmp_path).exit_code == 0
    same, another = beside
    assert isinstance(same.exception, PublishError)
    assert ".json.lock is held" in str(same.exception)
    assert another.exit_code == 0
    assert published(bank_log, tmp_path).exit_code == 0  # it is free again


def own_log(bank_log, folder, prefix):
    """A log of users that no other test of the shared broker knows."""
    table = logs.read_table(bank_log, CLICKSTREAM)
    names = [f"{prefix}{user_id}" for user_id in table["user_id"].to_pylist()]
    place = table.column_names.index("user_id")
    logs.write_table(folder, CLICKSTREAM, table.set_column(place, "user_id", pa.array(names)))
    return folder


@pytest.mark.integration
def test_a_published_log_is_on_the_broker_in_the_order_of_each_user(bank_log, tmp_path, stack):
    from kafka import KafkaConsumer, TopicPartition

    from streams.clients import kafka_python_config

    log_dir = own_log(bank_log, tmp_path, "replay-")
    where = ["--dir", str(stack.stack.dir), "--json"]
    CliRunner().invoke(topics, ["create", *where], catch_exceptions=False)
    first, again = (
        CliRunner().invoke(publish, [str(log_dir), *where], catch_exceptions=False)
        for _ in range(2)
    )
    rows = logs.read_table(log_dir, CLICKSTREAM)
    assert json.loads(first.stdout)["acknowledged"] == rows.num_rows
    assert json.loads(again.stdout)["acknowledged"] == 0
    consumer = KafkaConsumer(**kafka_python_config(stack.settings), group_id=None)
    numbers = consumer.partitions_for_topic(CLICKSTREAM)
    partitions = [TopicPartition(CLICKSTREAM, number) for number in numbers]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions)
    times, ids = {}, []
    while any(consumer.position(p) < ends[p] for p in partitions):
        for found in consumer.poll(timeout_ms=300).values():
            for message in found:
                if message.key.startswith(b"replay-"):
                    event = orjson.loads(message.value)
                    ids.append(event["event_id"])
                    times.setdefault(message.key, []).append(event["event_time_ms"])
    consumer.close()
    assert sorted(ids) == sorted(rows["event_id"].to_pylist())
    assert all(found == sorted(found) for found in times.values())


def _num_on(settings, topic):
    """Records that the broker took for a topic."""
    from kafka import KafkaConsumer, TopicPartition

    from streams.clients import kafka_python_config

    consumer = KafkaConsumer(**kafka_python_config(settings), group_id=None)
    try:
        numbers = consumer.partitions_for_topic(topic)
        return sum(consumer.end_offsets([TopicPartition(topic, n) for n in numbers]).values())
    finally:
        consumer.close()


@pytest.mark.integration
def test_ctrl_c_of_a_paced_publish_keeps_what_the_broker_acknowledged(bank_log, tmp_path, stack):
    log_dir = own_log(bank_log, tmp_path, "paced-")
    where = ["--dir", str(stack.stack.dir), "--json"]
    CliRunner().invoke(topics, ["create", *where], catch_exceptions=False)
    folder = stack.stack.dir / "publish"
    before, on_broker = set(folder.glob("*.lock")), _num_on(stack.settings, CLICKSTREAM)
    running = subprocess.Popen(
        # Some events a second; the log has hundreds.
        [sys.executable, "-m", "streams", "publish", str(log_dir), "--speed", "9000", *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that runs tests in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        enough = on_broker + 20
        until("some are sent", lambda: _num_on(stack.settings, CLICKSTREAM) > enough, 60)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 1
    (lock,) = set(folder.glob("*.lock")) - before
    rows = logs.read_table(log_dir, CLICKSTREAM).num_rows
    kept = json.loads(lock.with_suffix("").read_text())["num_acknowledged"]
    assert 0 < kept < rows
    rest = CliRunner().invoke(publish, [str(log_dir), *where], catch_exceptions=False)
    told = json.loads(rest.stdout)
    assert (told["already_published"], told["acknowledged"]) == (kept, rows - kept)
