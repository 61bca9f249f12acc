// @rc-ex/core and @rc-ex/ws, which renew nothing by themselves.
"use strict";

const RingCentral = require("@rc-ex/core").default;
const WebSocketExtension = require("@rc-ex/ws").default;
const { EXTENSION, FAX, FILTERS, PAGE, RECORD, SMS, ask, base, eventFor, run, say, sayContent, sayPages } =
  require("./steps.js");

run(async () => {
  const rc = new RingCentral({ server: base, clientId: "any", clientSecret: "any" });
  const extension = rc.restapi().account().extension();
  const file = async (uri) => (await rc.get(uri, undefined, { responseType: "arraybuffer" })).data;

  say("without-login", { id: (await extension.get()).id });
  await rc.authorize({ jwt: "any" });
  say("login", { token: rc.token.access_token.slice(0, 5) });
  say("extension", { id: (await extension.get()).id });
  const attachment = await sayPages(async (uri) => (await rc.get(uri)).data);
  say("sms", { text: (await extension.sms().post(SMS)).subject });
  const attachments = [{ filename: "page.txt", contentType: "text/plain", content: PAGE }];
  say("fax", { pages: (await extension.fax().post({ ...FAX, attachments })).faxPageCount });
  const { recording } = (await rc.get(RECORD)).data;
  sayContent("recording", await file(recording.contentUri));
  sayContent("attachment", await file(attachment));

  const socket = new WebSocketExtension();
  await rc.installExtension(socket);
  let arrived;
  const event = new Promise((resolve) => { arrived = resolve; });
  const subscription = await socket.subscribe(FILTERS, arrived);
  await socket.ws.send(eventFor(subscription.subscriptionInfo.id));
  say("socket", { event: (await event).event });
  await socket.revoke();

  await ask("expire");
  say("expired", { id: (await extension.get()).id });
  await ask("end");
  try {
    await extension.get();
  } catch (error) {
    say("thrown", { status: error.response.status });
  }
  await rc.refresh();
  say("over", { id: (await extension.get()).id });
  await rc.revoke();
  say("logout", { status: 200 });
});
