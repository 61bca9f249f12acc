// The old package `ringcentral`. Its subscriptions go to PubNub, not through RingCentral's API.
"use strict";

const SDK = require("ringcentral");
const { EXTENSION, FAX, PAGE, RECORD, SMS, ask, base, run, say, sayContent, sayPages } = require("./steps.js");

run(async () => {
  const sdk = new SDK({ server: base, appKey: "any", appSecret: "any" });
  const platform = sdk.platform();
  const json = async (uri) => (await platform.get(uri)).json();
  const file = async (uri) => (await platform.get(uri)).response().arrayBuffer();

  await platform.login({ username: "+15551230001", password: "any" });
  say("login", { token: platform.auth().accessToken().slice(0, 5) });
  say("extension", { id: (await json(EXTENSION)).id });
  const attachment = await sayPages(json);
  say("sms", { text: (await platform.post(`${EXTENSION}/sms`, SMS)).json().subject });
  const form = new FormData();
  form.append("json", new Blob([JSON.stringify(FAX)], { type: "application/json" }));
  form.append("attachment", new Blob([PAGE], { type: "text/plain" }), "page.txt");
  say("fax", { pages: (await platform.post(`${EXTENSION}/fax`, form)).json().faxPageCount });
  const { recording } = await json(RECORD);
  sayContent("recording", await file(recording.contentUri));
  sayContent("attachment", await file(attachment));

  await ask("expire");
  say("expired", { id: (await json(EXTENSION)).id });
  await ask("end");
  say("over", { id: (await json(EXTENSION)).id });
  await platform.refresh();
  say("refresh", { id: (await json(EXTENSION)).id });
  say("logout", { status: (await platform.logout()).response().status });
});
