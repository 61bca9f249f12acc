// axios, with the leftover of a login.
"use strict";

const axios = require("axios");
const { EXTENSION, FAX, PAGE, RECORD, SMS, ask, base, run, say, sayContent, sayPages } = require("./steps.js");

run(async () => {
  const client = axios.create({ baseURL: base, headers: { Authorization: "Bearer undefined" } });
  const json = async (uri) => (await client.get(uri)).data;
  const file = async (uri) => (await client.get(uri, { responseType: "arraybuffer" })).data;

  say("extension", { id: (await json(EXTENSION)).id });
  const attachment = await sayPages(json);
  say("sms", { text: (await client.post(`${EXTENSION}/sms`, SMS)).data.subject });
  const form = new FormData();
  form.append("json", new Blob([JSON.stringify(FAX)], { type: "application/json" }));
  form.append("attachment", new Blob([PAGE], { type: "text/plain" }), "page.txt");
  say("fax", { pages: (await client.post(`${EXTENSION}/fax`, form)).data.faxPageCount });
  sayContent("recording", await file((await json(RECORD)).recording.contentUri));
  sayContent("attachment", await file(attachment));
  await ask("expire");
  say("expired", { id: (await json(EXTENSION)).id });
});
