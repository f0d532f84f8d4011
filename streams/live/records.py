"""Rows of the virtual future as records on the wire, dated by the clock of the run.

Same fields and names as the log that the simulator writes.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from features.records import Conversion, Interaction, Record, SlateRequest, Transaction
from fintrec.bank import needs, surfaces
from fintrec.bank.money import (
    ACCOUNTS,
    CHANNELS,
    DUE_AFTER_MS,
    KINDS,
    MCC_NAMES,
    MERCHANTS,
    MINIMUM_SHARE,
    MINIMUM_USD,
)
from fintrec.bank.visits import CONTACTS, DEVICES
from streams.live.future import Future
from streams.topics import CLICKSTREAM, CONVERSIONS, SLATE_REQUESTS, TRANSACTIONS

Outgoing: TypeAlias = tuple[str, Record]
"""(topic, record)."""

_PUBLIC_PAGES: Final = tuple(
    surfaces.public_page(need, need in needs.SERVICE_NEEDS) for need in needs.NEEDS
)


@dataclass(frozen=True, slots=True)
class Records:
    """Makes the records of one run; `run_id` starts every id, so that no two runs share one."""

    future: Future
    run_id: str

    def transaction(self, row: int, time_ms: int) -> Outgoing:
        """A purchase, transfer, statement, payment, fee or cash withdrawal."""
        money = self.future.money
        kind, amount = KINDS[money.kind[row]], float(money.amount_usd[row])
        billed: dict[str, Any] = {}
        if kind == "statement":
            billed["due_date_ms"] = time_ms + DUE_AFTER_MS
            billed["minimum_due_usd"] = max(round(amount * MINIMUM_SHARE, 2), MINIMUM_USD)
        record = Transaction(
            event_id=f"{self.run_id}-txn-{row}",
            user_id=self.future.users[money.user[row]],
            event_time_ms=time_ms,
            kind=kind,
            amount_usd=amount,
            mcc=MCC_NAMES[money.mcc[row]],
            merchant=MERCHANTS[money.merchant[row]],
            account=ACCOUNTS[money.account[row]],
            channel=CHANNELS[money.channel[row]],
            **billed,
        )
        return TRANSACTIONS, record

    def contact(self, event_id: str, user: int, which: int, time_ms: int) -> Outgoing:
        """A call, complaint, fraud report or branch visit (place in CONTACTS)."""
        at_branch = CONTACTS[which] == "branch"
        record = Interaction(
            event_id=f"{self.run_id}-{event_id}",
            user_id=self.future.users[user],
            event_time_ms=time_ms,
            action=CONTACTS[which],
            channel="branch" if at_branch else "call_center",
            device="terminal" if at_branch else "phone",
        )
        return CLICKSTREAM, record

    def public_page(self, row: int, time_ms: int) -> Outgoing:
        """A page that somebody reads without a login."""
        browsing = self.future.browsing
        record = Interaction(
            event_id=f"{self.run_id}-pub-{row}",
            event_time_ms=time_ms,
            action="page_view",
            anonymous_id=self.future.device_of(int(browsing.user[row])),
            session_id=f"{self.run_id}-ses-{browsing.session[row]}",
            channel="web",
            product=surfaces.PUBLIC_PRODUCT,
            page=_PUBLIC_PAGES[browsing.need[row]],
            layout=surfaces.PUBLIC_LAYOUT,
            device=DEVICES[browsing.device[row]],
        )
        return CLICKSTREAM, record

    def session_event(self, action: str, session: int, time_ms: int) -> Outgoing:
        """A login or a logout; a login on the web tells the device."""
        sessions = self.future.sessions
        user = int(sessions.user[session])
        tells = action == "login" and not sessions.is_app[session]
        record = Interaction(
            event_id=f"{self.run_id}-{action}-{session}",
            user_id=self.future.users[user],
            event_time_ms=time_ms,
            action=action,
            anonymous_id=self.future.device_of(user) if tells else "",
            **self._visit(session),
        )
        return CLICKSTREAM, record

    def page_view(self, page: int, time_ms: int) -> Outgoing:
        """A page that the user opens."""
        return CLICKSTREAM, self._on_page("page_view", page, time_ms)

    def request(self, page: int, time_ms: int) -> Outgoing:
        """The page asks what to show."""
        pages = self.future.pages
        visit, place = self._visit(int(pages.session[page])), surfaces.PLACES[pages.place[page]]
        record = SlateRequest(
            request_id=self.request_id(page),
            user_id=self.future.users[pages.user[page]],
            event_time_ms=time_ms,
            size=place.slots,
            product=place.product,
            page=place.page,
            placement=place.placement,
            layout=place.layout,
            channel=visit["channel"],
            device=visit["device"],
        )
        return SLATE_REQUESTS, record

    def request_id(self, page: int) -> str:
        """Id of a page's request."""
        return f"{self.run_id}-req-{page}"

    def on_slot(
        self,
        action: str,
        page: int,
        slot: int,
        item_id: str,
        slate_id: str,
        time_ms: int,
        propensity: float | None = None,
    ) -> Outgoing:
        """An impression, click or dismissal of a slate's item; slots count from 0."""
        record = self._on_page(
            action,
            page,
            time_ms,
            name=f"{page}-{slot}",
            position=slot + 1,
            item_id=item_id,
            slate_id=slate_id,
            propensity=propensity,
        )
        return CLICKSTREAM, record

    def conversion(
        self, event_id: str, user: int, item_id: str, value_usd: float, time_ms: int
    ) -> Outgoing:
        """A goal that was reached."""
        record = Conversion(
            event_id=f"{self.run_id}-{event_id}",
            user_id=self.future.users[user],
            event_time_ms=time_ms,
            item_id=item_id,
            value_usd=value_usd,
        )
        return CONVERSIONS, record

    def _on_page(
        self, action: str, page: int, time_ms: int, name: str = "", **given: Any
    ) -> Interaction:
        pages = self.future.pages
        place = surfaces.PLACES[pages.place[page]]
        return Interaction(
            event_id=f"{self.run_id}-{action}-{name or page}",
            user_id=self.future.users[pages.user[page]],
            event_time_ms=time_ms,
            action=action,
            product=place.product,
            page=place.page,
            placement=place.placement,
            layout=place.layout,
            **self._visit(int(pages.session[page])),
            **given,
        )

    def _visit(self, session: int) -> dict[str, Any]:
        sessions = self.future.sessions
        return {
            "session_id": f"{self.run_id}-ses-{session}",
            "channel": "mobile_app" if sessions.is_app[session] else "web",
            "device": DEVICES[sessions.device[session]],
        }
