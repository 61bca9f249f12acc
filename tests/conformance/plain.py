"""requests or httpx, with no token."""

import json
import sys

from steps import BASE, EXTENSION, FAX, LIST, PAGE, RECORD, SMS, ask, say, say_content, say_pages

if sys.argv[2] == "requests":
    import requests

    session = requests.Session()
else:
    import httpx

    session = httpx.Client(headers={"Authorization": "Bearer dummy"})


def get(uri):
    answer = session.get(uri)
    answer.raise_for_status()
    return answer


say("extension", id=get(BASE + EXTENSION).json()["id"])
attachment = say_pages(lambda uri: get(uri).json(), BASE + LIST)
say("sms", text=session.post(BASE + EXTENSION + "/sms", json=SMS).json()["subject"])
files = {
    "json": ("request.json", json.dumps(FAX), "application/json"),
    "attachment": ("page.txt", PAGE, "text/plain"),
}
say("fax", pages=session.post(BASE + EXTENSION + "/fax", files=files).json()["faxPageCount"])
say_content("recording", get(get(BASE + RECORD).json()["recording"]["contentUri"]).content)
say_content("attachment", get(attachment).content)
ask("expire")
say("expired", id=get(BASE + EXTENSION).json()["id"])
