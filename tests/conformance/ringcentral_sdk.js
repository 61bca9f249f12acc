// @ringcentral/sdk and @ringcentral/subscriptions: `login` is their default, `authProxy` the other mode.
"use strict";

const FormData = require("form-data");
const { SDK } = require("@ringcentral/sdk");
const { Subscriptions } = require("@ringcentral/subscriptions");
const { EXTENSION, FAX, FILTERS, PAGE, RECORD, SMS, ask, base, eventFor, mode, run, say, sayContent, sayPages, secret } =
  require("./steps.js");

run(async () => {
  const logsIn = mode === "login";
  const sdk = logsIn
    ? new SDK({ server: base, clientId: "any", clientSecret: secret })
    : new SDK({ server: base, clientId: "any", authProxy: true });
  const platform = sdk.platform();
  const json = async (uri) => (await platform.get(uri)).json();

  if (logsIn) {
    await platform.login({ jwt: "any" });
    say("login", { token: (await platform.auth().data()).access_token.slice(0, 5) });
  } else {
    say("client-info", { loggedIn: await platform.loggedIn() });
  }
  say("extension", { id: (await json(EXTENSION)).id });
  const attachment = await sayPages(json);
  say("sms", { text: (await (await platform.post(`${EXTENSION}/sms`, SMS)).json()).subject });

  const form = new FormData();
  form.append("json", Buffer.from(JSON.stringify(FAX)), { filename: "request.json", contentType: "application/json" });
  form.append("attachment", PAGE, { filename: "page.txt", contentType: "text/plain" });
  say("fax", { pages: (await (await platform.post(`${EXTENSION}/fax`, form)).json()).faxPageCount });

  const { recording } = await json(RECORD);
  sayContent("recording", await (await platform.get(recording.contentUri)).arrayBuffer());
  sayContent("attachment", await (await platform.get(attachment)).arrayBuffer());

  const subscription = new Subscriptions({ sdk }).createSubscription().setEventFilters(FILTERS);
  const event = new Promise((resolve) => subscription.on(subscription.events.notification, resolve));
  const registered = await subscription.register();
  await registered.wse.ws.send(eventFor(registered.subscriptionInfo.id));
  say("socket", { event: (await event).event });
  await registered.wse.revoke();

  await ask("expire");
  say("expired", { id: (await json(EXTENSION)).id });
  if (logsIn) {
    await ask("end");
    say("over", { id: (await json(EXTENSION)).id });
    await platform.refresh();
    say("refresh", { id: (await json(EXTENSION)).id });
    say("logout", { status: (await platform.logout()).status });
  }
});
