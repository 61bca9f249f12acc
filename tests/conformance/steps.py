"""What every script here says, and what it calls."""

import hashlib
import json
import sys

BASE = sys.argv[1]
EXTENSION = "/restapi/v1.0/account/~/extension/~"
LIST = EXTENSION + "/message-store?perPage=40"
RECORD = EXTENSION + "/call-log/IXPCm_tIkCduk4I"
FILTERS = ["/restapi/v1.0/account/~/extension/~/message-store"]
SMS = {"from": {"phoneNumber": "+15551230001"}, "to": [{"phoneNumber": "+15551230002"}], "text": "hi"}
FAX = {"to": [{"phoneNumber": "+15551230002"}], "faxResolution": "High"}
PAGE = b"page" * 750


def say(step, **values):
    """One line for one step, with what came of it."""
    print(json.dumps({"step": step, **values}), flush=True)


def ask(what):
    """Has the test do something between two steps."""
    print(json.dumps({"ask": what}), flush=True)
    sys.stdin.readline()


def say_content(step, content):
    say(step, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


class Pages:
    """Follows `navigation.nextPage.uri`; knows where the first attachment is."""

    def __init__(self):
        self.pages, self.records, self.attachment = 0, 0, None

    def take(self, page):
        """Where the next page is."""
        self.attachment = self.attachment or page["records"][0]["attachments"][0]["uri"]
        self.pages += 1
        self.records += len(page["records"])
        return page["navigation"].get("nextPage", {}).get("uri")

    def say(self):
        say("pages", pages=self.pages, records=self.records)
        return self.attachment


def say_pages(get, first=LIST):
    pages, uri = Pages(), first
    while uri:
        uri = pages.take(get(uri))
    return pages.say()


def event_for(subscription_id):
    """The socket sends back what it is sent, so a client can make an event for itself."""
    notification = {"event": "/message-store", "subscriptionId": subscription_id, "body": {}}
    return [{"type": "ServerNotification", "messageId": "event"}, notification]
