"""PyPI's `tap-ringcentral`: the program itself on its streams, and its client around a token's end.

It writes the refresh token that it gets back into its configuration, and begins with that next time.
"""

import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

from tap_ringcentral.client import RingCentralClient

from steps import BASE, EXTENSION, ask, say

files = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[2]))
config = files / "config.json"
yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
config.write_text(json.dumps({
    "client_id": "any",
    "client_secret": "any",
    "refresh_token": "left over",
    "api_url": BASE,
    "start_date": yesterday.isoformat(),
}))


def refresh_token():
    return json.loads(config.read_text())["refresh_token"]


def tap(*arguments):
    program = pathlib.Path(sys.executable).with_name("tap-ringcentral")
    done = subprocess.run([program, "--config", config, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout


def records(stream):
    """How many records of that stream the program says."""
    catalog = json.loads(discovered)
    for entry in catalog["streams"]:
        for level in entry["metadata"]:
            if level["breadcrumb"] == []:
                level["metadata"]["selected"] = entry["stream"] == stream
    chosen = files / "catalog.json"
    chosen.write_text(json.dumps(catalog))
    said = [json.loads(line) for line in tap("--catalog", chosen).splitlines()]
    return sum(1 for message in said if message["type"] == "RECORD")


discovered = tap("--discover")
first = refresh_token()
say("login", token=first[:5])
ask("longer lists")
say("contacts", records=records("contacts"))
ask("short lists")
say("call-log", records=records("company_call_log"))
say("rotated", distinct=first != refresh_token())

client = RingCentralClient(json.loads(config.read_text()), config)
url = BASE + EXTENSION
say("extension", id=client.make_request(url, "GET", body={})["id"])
ask("expire")
say("expired", id=client.make_request(url, "GET", body={})["id"])
ask("end")
say("over", id=client.make_request(url, "GET", body={})["id"])
