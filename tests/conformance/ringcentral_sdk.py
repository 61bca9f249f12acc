"""PyPI's `ringcentral`: it refreshes by the clock only, and throws a 401."""

import asyncio

from ringcentral import SDK
from ringcentral.http.api_exception import ApiException
from ringcentral.websocket.events import WebSocketEvents

from steps import BASE, EXTENSION, FAX, FILTERS, PAGE, RECORD, SMS, ask, event_for, say, say_content, say_pages

sdk = SDK("any", "any", BASE)
platform = sdk.platform()


def get(uri):
    return platform.get(uri).json_dict()


async def subscribe():
    socket = sdk.create_web_socket_client()
    arrived = asyncio.get_running_loop().create_future()

    def created(subscription):
        event = event_for(subscription.get_subscription_info()[1]["id"])
        asyncio.ensure_future(socket.send_message(event))

    socket.on(WebSocketEvents.connectionCreated, lambda _: asyncio.ensure_future(socket.create_subscription(FILTERS)))
    socket.on(WebSocketEvents.subscriptionCreated, created)
    socket.on(WebSocketEvents.receiveSubscriptionNotification, arrived.set_result)
    receiving = asyncio.ensure_future(socket.create_new_connection())
    await asyncio.wait([receiving, arrived], return_when=asyncio.FIRST_COMPLETED)
    say("socket", event=arrived.result()[1]["event"])
    await socket.close_connection()
    await asyncio.wait([receiving])


say("without-login", id=platform.get(EXTENSION, skip_auth_check=True).json_dict()["id"])
platform.login(jwt="any")
say("login", token=platform.auth().access_token()[:5])
say("extension", id=get(EXTENSION)["id"])
attachment = say_pages(get)
say("sms", text=platform.post(EXTENSION + "/sms", SMS).json_dict()["subject"])
builder = sdk.create_multipart_builder().set_body(FAX).set_multipart_mixed(True)
builder.add(("page.txt", PAGE, "text/plain"))
say("fax", pages=platform.send_request(builder.request(EXTENSION + "/fax")).json_dict()["faxPageCount"])
say_content("recording", platform.get(get(RECORD)["recording"]["contentUri"]).body())
say_content("attachment", platform.get(attachment).body())
asyncio.run(subscribe())
ask("expire")
say("expired", id=get(EXTENSION)["id"])
ask("end")
try:
    get(EXTENSION)
except ApiException as error:
    say("thrown", status=error.api_response().response().status_code)
platform.refresh()
say("over", id=get(EXTENSION)["id"])
say("logout", status=platform.logout().response().status_code)
