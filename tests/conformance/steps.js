// What every script here says, and what it calls.
"use strict";

const { createHash } = require("node:crypto");
const lines = require("node:readline").createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const EXTENSION = "/restapi/v1.0/account/~/extension/~";

// One line for one step, with what came of it.
function say(step, values = {}) {
  console.log(JSON.stringify({ step, ...values }));
}

// Has the test do something between two steps.
async function ask(what) {
  console.log(JSON.stringify({ ask: what }));
  await lines.next();
}

function sayContent(step, content) {
  const sha256 = createHash("sha256").update(Buffer.from(content)).digest("hex");
  say(step, { bytes: content.byteLength, sha256 });
}

// Follows `navigation.nextPage.uri` to the end; returns where the first attachment is.
async function sayPages(get) {
  let [pages, records, uri, attachment] = [0, 0, `${EXTENSION}/message-store?perPage=40`, null];
  while (uri) {
    const page = await get(uri);
    attachment ??= page.records[0].attachments[0].uri;
    pages += 1;
    records += page.records.length;
    uri = page.navigation.nextPage?.uri;
  }
  say("pages", { pages, records });
  return attachment;
}

// The socket sends back what it is sent, so a client can make an event for itself.
function eventFor(subscriptionId) {
  const notification = { event: "/message-store", subscriptionId, body: { changes: [] } };
  return JSON.stringify([{ type: "ServerNotification", messageId: "event" }, notification]);
}

function run(main) {
  main().then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = {
  EXTENSION,
  RECORD: `${EXTENSION}/call-log/IXPCm_tIkCduk4I`,
  FILTERS: ["/restapi/v1.0/account/~/extension/~/message-store"],
  SMS: { from: { phoneNumber: "+15551230001" }, to: [{ phoneNumber: "+15551230002" }], text: "hi" },
  FAX: { to: [{ phoneNumber: "+15551230002" }], faxResolution: "High" },
  PAGE: Buffer.alloc(3000, "page"),
  base: process.argv[2],
  mode: process.argv[3],
  secret: process.argv[4] ?? "any",
  ask, eventFor, run, say, sayContent, sayPages,
};
