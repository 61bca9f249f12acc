// fetch and WebSocket, with no token: npm's `undici`, or Node.js's own fetch.
"use strict";

const undici = require("undici");
const { EXTENSION, FAX, FILTERS, PAGE, RECORD, SMS, ask, base, eventFor, mode, run, say, sayContent, sayPages } =
  require("./steps.js");

const ours = mode === "undici";
const fetch = ours ? undici.fetch : globalThis.fetch;
const Form = ours ? undici.FormData : globalThis.FormData;

// Its messages, one by one.
function open(uri) {
  const [socket, waiting, come] = [new undici.WebSocket(uri), [], []];
  socket.addEventListener("message", ({ data }) => (waiting.shift() ?? ((text) => come.push(text)))(data));
  const next = () => (come.length ? come.shift() : new Promise((resolve) => waiting.push(resolve)));
  return { socket, next: async () => JSON.parse(await next()) };
}

run(async () => {
  const call = async (uri, init) => {
    const answer = await fetch(new URL(uri, base), init);
    if (!answer.ok) throw new Error(`${uri}: ${answer.status} ${await answer.text()}`);
    return answer;
  };
  const json = async (uri, init) => (await call(uri, init)).json();
  const file = async (uri) => (await call(uri)).arrayBuffer();

  say("extension", { id: (await json(EXTENSION)).id });
  const attachment = await sayPages(json);
  const headers = { "content-type": "application/json", authorization: "Bearer undefined" };
  const sms = { method: "POST", headers, body: JSON.stringify(SMS) };
  say("sms", { text: (await json(`${EXTENSION}/sms`, sms)).subject });
  const form = new Form();
  form.append("json", new Blob([JSON.stringify(FAX)], { type: "application/json" }));
  form.append("attachment", new Blob([PAGE], { type: "text/plain" }), "page.txt");
  say("fax", { pages: (await json(`${EXTENSION}/fax`, { method: "POST", body: form })).faxPageCount });
  sayContent("recording", await file((await json(RECORD)).recording.contentUri));
  sayContent("attachment", await file(attachment));

  if (ours) {
    const { uri, ws_access_token: token } = await json("/restapi/oauth/wstoken", { method: "POST" });
    const { socket, next } = open(`${uri}?access_token=${token}`);
    await next();
    const subscribe = { type: "ClientRequest", messageId: "1", method: "POST", path: "/restapi/v1.0/subscription" };
    socket.send(JSON.stringify([subscribe, { eventFilters: FILTERS, deliveryMode: { transportType: "WebSocket" } }]));
    socket.send(eventFor((await next())[1].id));
    say("socket", { event: (await next())[1].event });
    socket.close();
  }

  await ask("expire");
  say("expired", { id: (await json(EXTENSION)).id });
});
