"""Hooks of schemathesis for tests/tests/rest_api.rs: among what it makes up they put what is real.

A request for a name that nobody knows, or with a body that nobody would send, ends at the first look. So every other
request gets a name that is there, settings that work, an upload of a device or the cursor of an answer; and each request
that takes a database or a key away gets one of its own. Each request comes from an address of its own, as through a
proxy: an address that showed many wrong keys is not looked at any more.
"""

import atexit
import base64
import ipaddress
import itertools
import json
import os
import urllib.error
import urllib.request

import schemathesis

with open(os.environ["CLOUDSYNC_REAL"], encoding="utf-8") as file:
    REAL = json.load(file)

turns = {}
cursors = []
tags = []
seen = {}
addresses = map(str, ipaddress.ip_network("10.0.0.0/8").hosts())


@atexit.register
def tell_what_was_seen():
    with open(os.environ["CLOUDSYNC_SEEN"], "w", encoding="utf-8") as file:
        json.dump({operation: sorted(statuses) for operation, statuses in seen.items()}, file)


def ask(method, path, body=None):
    """Asks the hub as the operator; gives the status and the answer."""
    request = urllib.request.Request(
        REAL["base"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": "Bearer " + REAL["admin_key"], "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read() or "null")


def serve(name):
    """Lets the hub serve a database of this name."""
    status, told = ask("POST", "/v1/databases", {"name": name, "settings": REAL["settings"]})
    if status not in (201, 409):
        raise RuntimeError(f"{name} is not served: {status} {told}")


def turn(case, *choices):
    """Chooses for one request of an operation after the other."""
    counter = turns.setdefault((case.operation.label, choices), itertools.count())
    return choices[next(counter) % len(choices)]


def put_settings(case):
    if isinstance(case.body, dict) and turn(case, False, True):
        if isinstance(case.body.get("settings"), dict):
            case.body = {**case.body, "settings": {**case.body["settings"], "url": REAL["settings"]["url"]}}
        elif isinstance(case.body.get("url"), str):
            case.body = {**case.body, "url": REAL["settings"]["url"]}


def replace_database(case):
    serve("replaced")
    put_settings(case)


def delete_database(case):
    serve("deleted")


def put_key(case):
    if turn(case, False, True):
        status, key = ask("POST", f"/v1/databases/{REAL['database']}/keys", {"role": REAL["role"]})
        if status != 201:
            raise RuntimeError(f"no key was made: {status} {key}")
        case.path_parameters["key"] = key["id"]


def put_job(case):
    if turn(case, False, True):
        _, page = ask("GET", f"/v1/databases/{REAL['database']}/jobs?limit=1000")
        dead = [job["job"] for job in page.get("items", []) if job["state"] == "dead"]
        if dead:
            case.path_parameters["job"] = str(dead[0])


def put_upload(case):
    which = turn(case, "nothing", "headers", "body", "both")
    if which in ("body", "both"):
        case.body = base64.b64decode(REAL["upload"]["body"])
    if which in ("headers", "both"):
        case.headers.update(REAL["upload"]["headers"])
        if "chunks" in case.path:
            case.headers["Cloudsync-Chunk"] = turn(case, "1/2", "2/2", "1/1")


def put_cursor(case):
    # What is waited for does not come.
    wait = case.query.get("wait_ms")
    if str(wait).isdigit() and 50 < int(wait) <= 60_000:
        case.query["wait_ms"] = 50
    which = turn(case, "nothing", "cursor", "range")
    if which == "cursor" and cursors:
        case.query["cursor"] = turn(case, *cursors)
    if which == "range" and tags:
        case.query.pop("cursor", None)
        case.query.pop("tables", None)
        case.headers.update({"Range": "bytes=1-", "If-Range": tags[-1]})


PUT = {
    "POST /v1/databases": put_settings,
    "PUT /v1/databases/{database}": replace_database,
    "DELETE /v1/databases/{database}": delete_database,
    "DELETE /v1/databases/{database}/keys/{key}": put_key,
    "POST /v1/databases/{database}/keys/{key}/rotate": put_key,
    "DELETE /v1/databases/{database}/jobs/{job}": put_job,
    "POST /v1/databases/{database}/jobs/{job}/revive": put_job,
    "POST /v1/databases/{database}/uploads": put_upload,
    "POST /v1/databases/{database}/chunks": put_upload,
    "GET /v1/databases/{database}/changes": put_cursor,
}


@schemathesis.hook
def before_call(context, case, kwargs):
    case.headers["X-Forwarded-For"] = next(addresses)
    put = PUT.get(case.operation.label)
    if put is not None and case.method == case.operation.method.upper():
        put(case)


@schemathesis.hook
def after_call(context, case, response):
    if case.method == case.operation.method.upper():
        seen.setdefault(case.operation.label, set()).add(response.status_code)
    if case.operation.label == "POST /v1/databases" and response.status_code == 201:
        ask("DELETE", "/v1/databases/" + response.json()["name"])
    if case.operation.label.endswith("/changes"):
        cursors.extend(response.headers.get("cloudsync-cursor", []))
        tags.extend(response.headers.get("etag", []))
        del cursors[:-8]
