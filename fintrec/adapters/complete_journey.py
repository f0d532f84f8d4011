"""The Complete Journey (84.51 degrees): a retailer's households, campaigns, coupons and baskets.

| source | record |
|---|---|
| a household receives a campaign | impression of the item `campaign-<id>`, at the campaign's start |
| a household redeems a coupon | conversion of the coupon's campaign, at the end of that day |
| a basket's lines of one merchant category | one purchase: the sum, at the basket's instant |
| a campaign | item, category its type, attribution window its own length, last day included |
| a household | consent granted: it is in the retailer's programme |

Only the day of a redemption is known. Dated at its end, no page of that day sees it. Campaigns
that start on one day stand on one page. `coupons` (which products a coupon is good for) and
`demographics` have no field in our records and are counted as left out.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.spec import DAY_MS
from fintrec import logs
from fintrec.adapters.source import (
    INSTANT,
    granted,
    joined,
    milliseconds,
    new_log,
    read_source,
    unique_key,
)

GENERAL_MERCHANDISE: Final = "5399"
_FOOD: Final = (
    "GROCERY",
    "PRODUCE",
    "MEAT",
    "MEAT-PCKGD",
    "DELI",
    "PASTRY",
    "NUTRITION",
    "SEAFOOD",
    "SEAFOOD-PCKGD",
    "SALAD BAR",
    "CHEF SHOPPE",
    "FROZEN GROCERY",
)
# Departments to merchant category codes; any other, or none, is general merchandise.
MCC_OF_DEPARTMENT: Final = {
    **dict.fromkeys(_FOOD, "5411"),
    "RESTAURANT": "5812",
    "FUEL": "5541",
    "DRUG GM": "5912",
    "COSMETICS": "5977",
    "SPIRITS": "5921",
    "FLORAL": "5992",
    "GARDEN CENTER": "5261",
    "TOYS": "5945",
}
_INT: Final = pa.int64()
_STRING: Final = pa.string()


def import_log(source: Path, log_dir: Path) -> dict[str, Any]:
    """Write the folder's data as a LOG_DIR; returns counts by name.

    Raises LogError where a file is missing or not as expected.
    """
    new_log(log_dir)
    campaigns = _campaigns(source)
    received = _received(source, campaigns)
    redeemed = _redeemed(source, campaigns)
    lines, num_unnamed = _lines(source)
    purchases = _purchases(lines)
    num_demographics = _num_rows(source / "demographics.parquet", "household_id")
    num_coupon_products = _num_rows(source / "coupons.parquet", "coupon_upc")
    first_ms = int(milliseconds(campaigns["start_date"]).min())
    last_ms = int(milliseconds(lines["transaction_timestamp"]).max())
    logs.write_table(log_dir, logs.ITEMS, _items(campaigns))
    logs.write_table(log_dir, logs.CLICKSTREAM, received)
    logs.write_table(log_dir, logs.CONVERSIONS, redeemed)
    logs.write_table(log_dir, logs.TRANSACTIONS, purchases)
    named = pa.concat_arrays([t["user_id"].combine_chunks() for t in (received, purchases)])
    counts = {
        "campaigns": campaigns.num_rows,
        "exposures": received.num_rows,
        "redemptions": redeemed.num_rows,
        "basket_lines": lines.num_rows,
        "basket_lines_without_department": num_unnamed,
        "baskets": pc.count_distinct(lines["basket_id"]).as_py(),
        "purchases": purchases.num_rows,
        "households": granted(log_dir, pc.unique(named), first_ms),
        "left_out_demographics": num_demographics,
        "left_out_coupon_products": num_coupon_products,
    }
    # The year ends within a day of the last basket; campaigns that run on are incomplete.
    manifest = {"source": "complete_journey", "start_ms": first_ms, "end_ms": last_ms + 1}
    logs.write_manifest(log_dir, {**manifest, "counts": counts})
    return counts


def _campaigns(source: Path) -> pa.Table:
    """The campaigns with their items' ids and their length in days."""
    path = source / "campaign_descriptions.parquet"
    columns = {"campaign_id": _INT, "campaign_type": _STRING}
    table = read_source(path, {**columns, "start_date": INSTANT, "end_date": INSTANT})
    unique_key(table, ["campaign_id"], path)
    length_ms = milliseconds(table["end_date"]) - milliseconds(table["start_date"])
    days = length_ms // DAY_MS + 1
    wrong = np.flatnonzero((days < 1) | (days > 365))
    if len(wrong):
        raise logs.LogError(
            f"{path}: row {wrong[0]} runs for {days[wrong[0]]} days, expected 1 to 365"
        )
    table = table.append_column("days", pa.array(days))
    kind = pc.replace_substring(pc.utf8_lower(table["campaign_type"]), " ", "_")
    return table.append_column("kind", kind)


def _items(campaigns: pa.Table) -> pa.Table:
    start_ms = milliseconds(campaigns["start_date"])
    return pa.table(
        {
            "item_id": joined("campaign-", campaigns["campaign_id"]),
            "version": np.ones(len(start_ms), np.int64),
            "content_type": pa.repeat("marketing", len(start_ms)),
            "category": campaigns["kind"],
            "attribution_window_days": campaigns["days"],
            "valid_from_ms": start_ms,
            "valid_until_ms": start_ms + campaigns["days"].to_numpy() * DAY_MS,
        }
    )


def _with_campaign(table: pa.Table, campaigns: pa.Table, path: Path) -> pa.Table:
    """Rows with their campaign's columns; LogError for a campaign that is not described."""
    unknown = pc.index(pc.is_in(table["campaign_id"], campaigns["campaign_id"]), False).as_py()
    if unknown >= 0:
        raise logs.LogError(
            f"{path}: row {unknown}, campaign_id {table['campaign_id'][unknown]} is not in "
            f"campaign_descriptions.parquet"
        )
    return table.join(campaigns, "campaign_id")


def _received(source: Path, campaigns: pa.Table) -> pa.Table:
    path = source / "campaigns.parquet"
    table = read_source(path, {"household_id": _INT, "campaign_id": _INT})
    unique_key(table, ["household_id", "campaign_id"], path)
    table = _with_campaign(table, campaigns, path)
    num = table.num_rows
    return pa.table(
        {
            "event_id": joined("received-", table["household_id"], "-", table["campaign_id"]),
            "event_time_ms": milliseconds(table["start_date"]),
            "action": pa.repeat("impression", num),
            "user_id": joined("household-", table["household_id"]),
            "item_id": joined("campaign-", table["campaign_id"]),
            "channel": pa.repeat("other", num),
            "product": pa.repeat("retail_programme", num),
            "page": pa.repeat("mailing", num),
            "placement": table["kind"],
        }
    )


def _redeemed(source: Path, campaigns: pa.Table) -> pa.Table:
    path = source / "coupon_redemptions.parquet"
    names = ("household_id", "campaign_id", "coupon_upc")
    table = read_source(path, {**dict.fromkeys(names, _INT), "redemption_date": INSTANT})
    _with_campaign(table, campaigns, path)
    nth = pa.array(np.arange(table.num_rows))  # a coupon can be redeemed twice on a day
    return pa.table(
        {
            "event_id": joined("redeemed-", table["household_id"], "-", nth),
            "user_id": joined("household-", table["household_id"]),
            "event_time_ms": milliseconds(table["redemption_date"]) + DAY_MS - 1,
            "item_id": joined("campaign-", table["campaign_id"]),
        }
    )


def _lines(source: Path) -> tuple[pa.Table, int]:
    """Basket lines with their merchant category code, and how many have no department."""
    names = ("household_id", "store_id", "basket_id", "product_id")
    columns = {**dict.fromkeys(names, _INT), "sales_value": pa.float64()}
    lines = read_source(
        source / "transactions.parquet", {**columns, "transaction_timestamp": INSTANT}
    )
    path = source / "products.parquet"
    products = read_source(path, {"product_id": _INT, "department": _STRING}, ["department"])
    unique_key(products, ["product_id"], path)
    place = pc.index_in(lines["product_id"], products["product_id"].combine_chunks())
    department = pc.fill_null(products["department"].combine_chunks().take(place), "")
    known = pc.index_in(department, pa.array(MCC_OF_DEPARTMENT))
    mcc = pc.fill_null(pa.array(MCC_OF_DEPARTMENT.values()).take(known), GENERAL_MERCHANDISE)
    num_unnamed = pc.sum(pc.equal(department, "")).as_py() or 0
    return lines.drop_columns(["product_id"]).append_column("mcc", mcc), num_unnamed


def _purchases(lines: pa.Table) -> pa.Table:
    """One purchase a basket and merchant category; its id ends with the number of lines."""
    key = ["household_id", "store_id", "basket_id", "transaction_timestamp", "mcc"]
    table = lines.group_by(key).aggregate([("sales_value", "sum"), ([], "count_all")])
    num = table.num_rows
    return pa.table(
        {
            "event_id": joined(
                "basket-", table["basket_id"], "-", table["mcc"], "-", table["count_all"]
            ),
            "user_id": joined("household-", table["household_id"]),
            "event_time_ms": milliseconds(table["transaction_timestamp"]),
            "kind": pa.repeat("purchase", num),
            "amount_usd": pc.round(table["sales_value_sum"], 2),
            "mcc": table["mcc"],
            "merchant": joined("store-", table["store_id"]),
        }
    )


def _num_rows(path: Path, column: str) -> int:
    return int(read_source(path, {column: _INT}).num_rows)
