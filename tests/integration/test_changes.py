"""What changes while requests flow: a user's events, the ranking policy, the catalogue."""

import json
import logging
import random
import time
from collections.abc import Mapping
from typing import Any

import pytest

from streams.topics import CLICKSTREAM, ITEMS, RANKING_POLICIES, TRANSACTIONS
from tests.integration.conftest import System, await_applied, make_judge, now_ms
from tests.integration.judge import FRESH
from tests.integration.referee import DAY, Expected
from tests.integration.traffic import consent, event, life, request
from tests.integration.wire import until

pytestmark = pytest.mark.integration

STRANGER = Expected()
logger = logging.getLogger(__name__)


def test_a_purchase_and_a_click_change_the_ranking_of_the_next_request(
    system: System,
) -> None:
    user, now = "changing-mind", now_ms()
    rng = random.Random(8)
    for e in [
        consent(user, now - DAY, "granted", now - DAY),
        *life(rng, user, now, 12, 3, [item.item_id for item in system.items]),
    ]:
        if not e.is_refused:
            system.wire.send(e.topic, user.encode(), e.value)
    system.wire.settle()

    await_applied(system, [user])
    before_slate, before = (json.loads(raw) for raw in system.wire.ask(request(user, now_ms())))
    bought = event(
        TRANSACTIONS,
        user,
        event_time_ms=now_ms() - 2,
        kind="purchase",
        amount_usd=842.5,
        mcc="3000",
        account="credit_card",
    )
    clicked = event(
        CLICKSTREAM,
        user,
        event_time_ms=now_ms(),
        action="click",
        item_id=before_slate["items"][1]["item_id"],
        channel="mobile_app",
    )
    for e in (bought, clicked):
        system.wire.send(e.topic, user.encode(), e.value).get(10)
    acknowledged = time.monotonic()
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def has_seen_both() -> bool:
        slate, audit = system.wire.ask(request(user, now_ms()))
        seen.append((json.loads(slate), json.loads(audit)))
        return bool(seen[-1][1]["state"]["state_version"] >= before["state"]["version"] + 2)

    until("a slate that has seen both events", has_seen_both, 5)
    logger.info("event to slate: %.3f s", time.monotonic() - acknowledged)
    after_slate, after = seen[-1]
    assert after_slate["tier"] == FRESH
    assert after["state"]["version"] == after["state"]["state_version"]
    assert after["logits_base64"] != before["logits_base64"]
    assert [i["pctr"] for i in after_slate["items"]] != [i["pctr"] for i in before_slate["items"]]
    assert after_slate["feature_ages_ms"]["user_state"] < 5_000
    assert after_slate["feature_ages_ms"]["hidden_state"] < 5_000


def test_a_policy_is_in_force_from_its_instant_on_for_its_scope_without_a_restart(
    system: System,
) -> None:
    workers = [system.process(name) for name in ("ingest-1", "score-1")]
    surface = {"product": "pgc_servicing", "page": "help", "placement": "answers"}

    def policy(version: int, **fields: Any) -> None:
        made = {"scope": "pgc_servicing", "version": version} | fields
        key = f"{made['scope']}@{version}".encode()
        system.wire.send(RANKING_POLICIES, key, json.dumps(made).encode())

    def judged(**where: Any) -> tuple[int, int]:
        """Policy version of a slate that the referee agrees with, and when it was decided."""
        system.wire.settle()
        slate, audit = system.wire.ask(request("policy-stranger", now_ms(), **where))
        make_judge(system, 1).slate(slate, audit, STRANGER, None)
        return json.loads(slate)["policy"]["version"], json.loads(audit)["decided_at_ms"]

    def version(**where: Any) -> int:
        """Policy version of a slate, whichever it is."""
        slate, _ = system.wire.ask(request("policy-stranger", now_ms(), **where))
        return int(json.loads(slate)["policy"]["version"])

    assert judged(**surface)[0] == 0
    policy(1, lambda_us=0.0, lambda_cvr=0.0, lambda_ctr=2.5)
    until("the policy is in force", lambda: version(**surface) == 1, 10)
    assert judged(**surface)[0] == 1
    assert judged()[0] == 0, "another surface"
    starts = now_ms() + 3_000
    boosts = {"urgency": {"paperless_b": 9.0}, "value_usd": {"contact_us_c": 1e6}}
    policy(2, effective_from_ms=starts, expires_ms=starts + 2_500, **boosts)
    policy(3, scope="", effective_from_ms=starts, expires_ms=starts + 2_500, lambda_us=0.5)
    found, decided = judged(**surface)
    assert (found == 1) == (decided < starts)
    until("the announced policy is in force", lambda: version(**surface) == 2, 15)
    assert now_ms() >= starts
    assert version() == 3
    found, decided = judged(**surface)
    assert (found == 2) == (decided < starts + 2_500)
    until("the policy has expired", lambda: version(**surface) == 1, 15)
    assert now_ms() >= starts + 2_500
    until("so has the one for all", lambda: version() == 0, 5)
    system.wire.send(RANKING_POLICIES, b"pgc_servicing@1", None)
    until("the policy is withdrawn", lambda: version(**surface) == 0, 10)
    assert [system.process(name) for name in ("ingest-1", "score-1")] == workers


def test_an_item_the_model_does_not_know_is_scored_by_its_types_prior_and_flagged(
    system: System,
) -> None:
    name = "just_invented"
    item: Mapping[str, Any] = {
        "item_id": name,
        "version": 1,
        "content_type": "third_party",
        "products": ["third_party"],
        "value_usd": 50_000.0,
    }
    place = {"product": "third_party", "size": 50}

    def shown() -> list[Mapping[str, Any]]:
        slate, _ = system.wire.ask(request("item-stranger", now_ms(), **place))
        return [i for i in json.loads(slate)["items"] if i["item_id"] == name]

    assert not shown()
    system.wire.publish(ITEMS, name, item)
    (found,) = until("the new item is ranked", shown, 10)
    prior = system.manifest(1).popularity.prior("third_party")
    assert found["scored_by_prior"]
    assert (found["pctr"], found["pcvr"]) == prior
    system.wire.settle()
    slate, audit = system.wire.ask(request("item-stranger", now_ms(), **place))
    assert "items_unknown_to_model" in json.loads(slate)["flags"]
    make_judge(system, 1).slate(slate, audit, STRANGER, None)
    system.wire.publish(ITEMS, name, {**item, "version": 2, "value_usd": 0.0})
    until("its new value counts", lambda: shown()[0]["value_usd"] == 0.0, 10)
    system.wire.send(ITEMS, name.encode(), None)
    until("the item is gone", lambda: not shown(), 10)
    slate, _ = system.wire.ask(request("item-stranger", now_ms(), candidates=[name], **place))
    assert json.loads(slate)["suppressed"] == [{"item_id": name, "reason": "unknown_item"}]
