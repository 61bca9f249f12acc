"""aiohttp, with no token: a fax in chunks behind `Expect: 100-continue`, and a WebSocket."""

import asyncio
import json

import aiohttp

from steps import BASE, EXTENSION, FAX, FILTERS, LIST, PAGE, RECORD, SMS, Pages, ask, event_for, say, say_content


async def main(session):
    async def get(uri):
        async with session.get(uri) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def get_json(uri):
        return json.loads(await get(uri))

    say("extension", id=(await get_json(BASE + EXTENSION))["id"])
    pages, uri = Pages(), BASE + LIST
    while uri:
        uri = pages.take(await get_json(uri))
    attachment = pages.say()
    async with session.post(BASE + EXTENSION + "/sms", json=SMS) as answer:
        say("sms", text=(await answer.json())["subject"])
    form = aiohttp.FormData()
    form.add_field("json", json.dumps(FAX), content_type="application/json")
    form.add_field("attachment", PAGE, filename="page.txt", content_type="text/plain")
    body = form()
    fields = {"Content-Type": body.content_type}
    whole = body.decode().encode() if not hasattr(body, "as_bytes") else await body.as_bytes()

    async def pieces():
        for at in range(0, len(whole), 1000):
            yield whole[at : at + 1000]

    async with session.post(BASE + EXTENSION + "/fax", data=pieces(), headers=fields, expect100=True) as answer:
        say("fax", pages=(await answer.json())["faxPageCount"])
    record = await get_json(BASE + RECORD)
    say_content("recording", await get(record["recording"]["contentUri"]))
    say_content("attachment", await get(attachment))

    async with session.post(BASE + "/restapi/oauth/wstoken") as answer:
        granted = await answer.json()
    async with session.ws_connect(f"{granted['uri']}?access_token={granted['ws_access_token']}") as socket:
        await socket.receive_json()
        subscribe = {"type": "ClientRequest", "messageId": "1", "method": "POST", "path": "/restapi/v1.0/subscription"}
        delivery = {"transportType": "WebSocket"}
        await socket.send_json([subscribe, {"eventFilters": FILTERS, "deliveryMode": delivery}])
        await socket.send_json(event_for((await socket.receive_json())[1]["id"]))
        say("socket", event=(await socket.receive_json())[1]["event"])

    ask("expire")
    say("expired", id=(await get_json(BASE + EXTENSION))["id"])


async def start():
    async with aiohttp.ClientSession() as session:
        await main(session)


asyncio.run(start())
