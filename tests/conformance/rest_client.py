"""PyPI's `ringcentral_client`: Basic on every call until it has logged in."""

import json

from ringcentral_client import RestClient

from steps import BASE, EXTENSION, FAX, PAGE, RECORD, SMS, ask, say, say_content, say_pages

rc = RestClient("any", "any", BASE)


def get(uri):
    return rc.get(uri).json()


say("without-login", id=get(EXTENSION)["id"])
rc.authorize(jwtToken="any")
say("login", token=rc.token["access_token"][:5])
say("extension", id=get(EXTENSION)["id"])
attachment = say_pages(get)
say("sms", text=rc.post(EXTENSION + "/sms", json=SMS).json()["subject"])
files = [
    ("json", ("request.json", json.dumps(FAX), "application/json")),
    ("attachment", ("page.txt", PAGE, "text/plain")),
]
say("fax", pages=rc.post(EXTENSION + "/fax", files=files, multipart_mixed=True).json()["faxPageCount"])
say_content("recording", rc.get(get(RECORD)["recording"]["contentUri"]).content)
say_content("attachment", rc.get(attachment).content)
ask("expire")
say("expired", id=get(EXTENSION)["id"])
ask("end")
try:
    get(EXTENSION)
except Exception as error:  # the library has no exception of its own
    say("thrown", status=int(str(error).split()[3]))
rc.refresh()
say("over", id=get(EXTENSION)["id"])
say("logout", status=rc.revoke().status_code)
