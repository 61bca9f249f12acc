// An authorization server by others, and a resource that its tokens open.
//
// oidc-provider rotates refresh tokens and ends a grant when one comes twice (RFC 9700 section
// 4.14.2). Nothing of its answers is changed here. The first refresh token of each grant is made
// through its models, which spares the browser; it is printed with everything else that a proxy
// needs, as one line of JSON. GET /stats tells what has happened. It ends when its input does.

import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const clientId = "foreign-client";
const clientSecret = "foreign-secret";
const grants = Number(process.argv[2] ?? 1);
const accessTokenLife = Number(process.argv[3] ?? 60);
const stats = { requests: 0, granted: {}, refused: [], revoked: 0, served: 0, unauthorized: 0 };

const json = (response, status, body) => {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
};

let oauth;
const server = createServer(async (request, response) => {
  if (request.url === "/stats") return json(response, 200, stats);
  if (request.url.startsWith("/restapi/")) return resource(request, response);
  if (request.url === "/token") stats.requests += 1;
  return oauth(request, response);
});

server.listen(0, "127.0.0.1", async () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(url, {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        grant_types: ["authorization_code", "refresh_token"],
        redirect_uris: ["https://client.invalid/callback"],
      },
    ],
    features: { introspection: { enabled: true }, revocation: { enabled: true } },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    ttl: { AccessToken: accessTokenLife, Grant: 3600, RefreshToken: 3600 },
  });
  provider.on("grant.success", (ctx) => {
    const account = ctx.oidc.entities.Account.accountId;
    stats.granted[account] = (stats.granted[account] ?? 0) + 1;
  });
  provider.on("grant.error", (_, error) => stats.refused.push(error.error_description));
  provider.on("grant.revoked", () => (stats.revoked += 1));
  oauth = provider.callback();
  find = (token) => provider.AccessToken.find(token);
  const refreshTokens = {};
  for (let n = 0; n < grants; n += 1) refreshTokens[`user-${n}`] = await login(provider, `user-${n}`);
  console.log(JSON.stringify({ url, clientId, clientSecret, refreshTokens }));
});

// What a user's consent in a browser comes to.
async function login(provider, accountId) {
  const scope = "offline_access";
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  const client = await provider.Client.find(clientId);
  const gty = "authorization_code";
  return new provider.RefreshToken({ accountId, client, grantId, gty, scope }).save();
}

// Answers with whose token it was, if it is good.
let find;
async function resource(request, response) {
  const [, value] = /^Bearer (.+)$/.exec(request.headers.authorization ?? "") ?? [];
  const token = value && (await find(value));
  if (!token || token.isExpired) {
    stats.unauthorized += 1;
    response.setHeader("www-authenticate", 'Bearer error="invalid_token"');
    return json(response, 401, { error: "invalid_token" });
  }
  stats.served += 1;
  return json(response, 200, { account: token.accountId });
}

process.stdin.on("end", () => process.exit(0)).resume();
