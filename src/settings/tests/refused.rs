//! Bad configurations, each with what the user is told.

use proptest::prelude::*;

use super::*;

/// Lines appended to [`LEAST`] (whose last table is `[identity.sales]`), and the message.
const APPENDED: &[(&str, &str)] = &[
    ("[log]\nfilter = ['a']", "configuration: line 8: `log.filter` needs text in quotes"),
    ("[proxy]\ntls = ['a.pem', 'b.pem']", "configuration: line 8: `proxy.tls` needs a table"),
    ("[[log]]", "configuration: line 7: `log` needs a table"),
    (
        "[[client]]\nallow = ['GET *']",
        "configuration: line 7: `client` has to stand in a table with a name of your choice, as in [client.NAME]",
    ),
    (
        "[log]\n\"fil\\u001bter\" = 'x'",
        "configuration: line 8: unknown key `log.fil\\u{1b}ter`: did you mean `filter`?",
    ),
    (
        "[upstream]\nconect_timeout = '5s'",
        "configuration: line 8: unknown key `upstream.conect_timeout`: did you mean `connect_timeout`?",
    ),
    (
        "[proxy]\nconnect_timeout = '5s'",
        "configuration: line 8: unknown key `proxy.connect_timeout`: it belongs into [upstream]",
    ),
    (
        "[host.media]\nurl = 'ftp://media.test'",
        "host \"media\": url has another scheme than https or http",
    ),
    (
        "[host.as]\nurl = 'https://media.test'",
        "host \"as\": this name is taken: /.ringbearer/as/NAME/ leads to an identity",
    ),
    (
        "[proxy]\nhosts = ['a.test', 'a b']",
        "hosts has \"a b\", which is no host name: write it like \"sales.example.com\" or \"localhost:8080\"",
    ),
    (
        "[proxy]\ncors_origins = '*'",
        "proxy.cors_origins has an entry that is no origin: write scheme, host and port as a browser does, such as \"https://app.example.com\"; there is no \"*\"",
    ),
    (
        "[proxy]\ncors_origins = ['https://app.test', 'https://app.test/page']",
        "proxy.cors_origins has an entry that is no origin: write scheme, host and port as a browser does, such as \"https://app.example.com\"; there is no \"*\"",
    ),
    (
        "[host.ws]\nurl = 'ws://ws.test'",
        "host \"ws\": url is plain http to another machine, which shows tokens to the network: use https, or set upstream.allow_plain_http = true",
    ),
    (
        "[host.me]\nurl = 'http://127.0.0.1:8080'",
        "host \"me\": url http://127.0.0.1:8080 is this proxy's own address (proxy.listen 127.0.0.1:8080): name RingCentral's, such as https://platform.ringcentral.com",
    ),
    (
        "[clients.app]\nkey = 'x'",
        "configuration: line 7: unknown key `clients`: did you mean `client`?",
    ),
    (
        "[policy]\ndeny = 'sendSMS'",
        "policy: deny has \"sendSMS\", which is neither an operation nor a rate-limit group: did you mean \"createSMSMessage\" (Send SMS)?",
    ),
    (
        "[policy]\nallows = 'x'",
        "configuration: line 8: unknown key `policy.allows`: did you mean `allow`?",
    ),
    (
        "[client.app]\nidentities = 'sales'\npreset = 'no-sm'\nkey_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'",
        "client \"app\": policy: preset \"no-sm\" is none: did you mean \"no-sms\"?",
    ),
    (
        "[client.app]\nidentities = 'sales'\nallow = []\nkey_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'",
        "client \"app\": policy: allow is empty, so that nothing would be allowed: name rules or remove it",
    ),
    (
        "[client.app]\nidentities = 'sales'",
        "client \"app\": nothing says how it is known: give it key_sha256 (`ringbearer keygen` makes a key and its digest), tls_subject, uid, gid or networks",
    ),
    (
        "[client.app]\nkey_sha256 = 'the-key-itself'\nidentities = 'sales'",
        "client \"app\": key_sha256 is not a digest of 64 hexadecimal digits: `ringbearer keygen` prints a key and its digest",
    ),
    (
        "[client.app]\nkey_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'",
        "client \"app\": identities is missing: name those that it may call as, the usual one first, or \"*\" for all",
    ),
    (
        "[client.app]\nkey_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'\nidentities = ['sales', '*']",
        "client \"app\": identities has \"*\", which can be no identity's name",
    ),
    (
        "[client.a]\nkey_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'\nidentities = '*'\n[client.b]\nkey_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'\nidentities = '*'",
        "client \"b\": client \"a\" has the same key: give each its own, or nobody can tell them apart",
    ),
    (
        "[client.a]\nnetworks = '10.0.0.0/8'\nidentities = '*'\n[client.b]\nnetworks = ['10.0.0.0/16', '10.0.0.0/8']\nidentities = '*'",
        "client \"b\": client \"a\" has the network 10.0.0.0/8 too, and a connection can be only one client's: keep it in one",
    ),
    (
        "[client.a]\nuid = [33, 1000]\nidentities = '*'\n[client.b]\nuid = 1000\nidentities = '*'",
        "client \"b\": client \"a\" has the uid 1000 too, and a connection can be only one client's: keep it in one",
    ),
    (
        "[client.a]\ngid = 33\nidentities = '*'\n[client.b]\ngid = 33\nidentities = '*'",
        "client \"b\": client \"a\" has the gid 33 too, and a connection can be only one client's: keep it in one",
    ),
    (
        "[client.a]\nnetworks = '10.1.2.3/8'\nidentities = '*'",
        "client \"a\": networks has \"10.1.2.3/8\": it begins at 10.0.0.0/8: write that, so that nobody takes it for a single address",
    ),
    (
        "[client.a]\nnetworks = ['10.0.0.0/8', 'office']\nidentities = '*'",
        "client \"a\": networks has \"office\": write it like \"10.0.0.0/8\", \"fd00::/8\" or, for one address, \"10.1.2.3\"",
    ),
    (
        "[client.a]\nnetworks = '0.0.0.0/0'\nidentities = '*'",
        "client \"a\": networks has \"0.0.0.0/0\": that is everybody: name the networks, or leave it to proxy.allow_remote_clients",
    ),
    (
        "[client.a]\ntls_subject = 'billing'\nidentities = '*'",
        "client \"a\": tls_subject has \"billing\": write the kind of name before it, as in \"DNS:app.example.com\", \
         \"URI:spiffe://example.com/app\", \"email:app@example.com\" or \"CN:app\"",
    ),
    (
        "[client.a]\ntls_subject = 'CN:billing'\nidentities = '*'",
        "client \"a\": tls_subject is of use only with proxy.tls.client_ca_file: add proxy.tls.client_ca_file or remove tls_subject",
    ),
    (
        "[client.a]\nuid = 'root'\nidentities = '*'",
        "configuration: line 8: `client.a.uid` needs a number such as `id -u NAME` prints, or an array of such",
    ),
    (
        "[client.a]\ngid = [1, -1]\nidentities = '*'",
        "configuration: line 8: `client.a.gid` needs a number such as `id -u NAME` prints, or an array of such",
    ),
    (
        "[proxy]\nsocket_mode = '0070'",
        "proxy.socket_mode is no mode that leaves the owner in: write it in octal, such as \"0660\"",
    ),
    (
        "listen = 'unix:/run/a.sock'\n[proxy]\nlisten = 'unix:/run/a.sock'",
        "listen names unix:/run/a.sock twice: keep one",
    ),
    (
        "[proxy]\nlisten = 'unix:/run/a.sock'\n[admin]\nlisten = 'unix:/run/a.sock'",
        "listen names unix:/run/a.sock twice: keep one",
    ),
    (
        "[proxy]\nlisten = 'unix:'",
        "configuration: line 8: `proxy.listen` needs an IP address and port such as \"127.0.0.1:8080\", a socket such as \"unix:/run/ringbearer.sock\", or an array of them",
    ),
    (
        "[upstream]\nclient_key_file = '/nonexistent'",
        "upstream.client_key_file is of use only with upstream.client_certificate_file: add upstream.client_certificate_file or remove upstream.client_key_file",
    ),
    (
        "[upstream]\nclient_certificate_file = '/nonexistent'",
        "upstream.client_certificate_file is of use only with upstream.client_key_file: add upstream.client_key_file or remove upstream.client_certificate_file",
    ),
    (
        "[upstream]\nverify = false",
        "configuration: line 8: unknown key `upstream.verify`: the keys here are url, allow_plain_http, ca_file, client_certificate_file, client_key_file, tls_key_log_file, http_proxy, http2, connect_timeout, response_timeout, stall_timeout, max_connections, idle_timeout",
    ),
    (
        "hosts = 'me@sales.test'",
        "identity \"sales\": hosts has \"me@sales.test\", which is no host name: write it like \"sales.example.com\" or \"localhost:8080\"",
    ),
    (
        "hosts = 'a.test'\n[identity.hr]\njwt = 'j'\nhosts = ['b.test', 'A.test']",
        "identity \"sales\": identity \"hr\" has the host \"a.test\" too: it can lead to one of them only",
    ),
    ("listen = '127.0.0.1:8080'", "listen names 127.0.0.1:8080 twice: keep one"),
    (
        "[store]\nvalkey = 'x'",
        "configuration: line 8: unknown key `store.valkey`: the keys here are directory, memory, redis, redis_ca_file, redis_prefix, allow_plain_redis, redis_wait_replicas, encryption_keys",
    ),
    (
        "[admin]\nlisten = '0.0.0.0:9090'",
        "admin.listen 0.0.0.0:9090 can be reached from other machines: listen on 127.0.0.1, or set admin.allow_remote = true if the network keeps strangers out",
    ),
    (
        "[admin]\nlisten = '127.0.0.1:8080'",
        "admin.listen 127.0.0.1:8080 is where apps are served (proxy.listen): choose another port",
    ),
    (
        "[admin]\nlisten = '127.0.0.1:9090'\nkey_sha256 = 'canary'",
        "admin.key_sha256 is not a digest of 64 hexadecimal digits: `ringbearer keygen` prints a key and its digest",
    ),
    (
        "[admin]\nhosts = ['ringbearer.internal']",
        "admin.hosts is of use only with admin.listen: add admin.listen or remove admin.hosts",
    ),
    (
        "[admin]\nlisten = '127.0.0.1:9090'\nhosts = ['http://ringbearer.internal']",
        "admin.hosts holds \"http://ringbearer.internal\": write host names without scheme, port or path",
    ),
    (
        "[admin]\nhosts = 5",
        "configuration: line 8: `admin.hosts` needs text in quotes, or an array of such",
    ),
    (
        "[log]\nfilter = canary",
        "configuration: line 8: this is not TOML: string values must be quoted, expected literal string",
    ),
    ("jwt = 'again'", "configuration: line 7: this is not TOML: duplicate key"),
    (
        "[upstream]\nconnect_timeout = 5",
        "configuration: line 8: `upstream.connect_timeout` needs a duration such as \"5s\" or \"2m\"",
    ),
    (
        "[proxy]\nmax_replay_bytes = 'lots'",
        "configuration: line 8: `proxy.max_replay_bytes` needs a size such as \"64KiB\" or \"1MiB\"",
    ),
    (
        "[proxy]\nworkers = 0",
        "configuration: line 8: `proxy.workers` needs a whole number, at least 1",
    ),
    (
        "client_credentials = 'canary'",
        "configuration: line 7: `identity.sales.client_credentials` needs true or false",
    ),
    ("scope = 5", "configuration: line 7: `identity.sales.scope` needs text in quotes"),
    (
        "password = { flie = 'x' }",
        "configuration: line 7: `identity.sales.password` needs the secret as text, { file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }",
    ),
    (
        "password = 12345",
        "configuration: line 7: `identity.sales.password` needs the secret as text, { file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }",
    ),
    (
        "[proxy]\nlisten = 'localhost:8080'",
        "configuration: line 8: `proxy.listen` needs an IP address and port such as \"127.0.0.1:8080\", a socket such as \"unix:/run/ringbearer.sock\", or an array of them",
    ),
    (
        "[identity]\nbot = 5",
        "configuration: line 8: `identity.bot` has to stand in a table with a name of your choice, as in [identity.NAME]",
    ),
    (
        "[proxy]\nlisten = []",
        "proxy.listen is empty: name an address, or remove it to listen on 127.0.0.1:8080",
    ),
    (
        "[proxy]\nlisten = ['127.0.0.1:1', '127.0.0.1:1']",
        "listen names 127.0.0.1:1 twice: keep one",
    ),
    (
        "[proxy]\nlisten = '0.0.0.0:8080'",
        "proxy.listen 0.0.0.0:8080 can be reached from other machines, and whoever reaches it acts as the identity: \
         listen on 127.0.0.1 or on a Unix socket, add a [client.NAME] so that callers are known (by key, certificate or network), \
         ask for certificates with proxy.tls.client_ca_file, or set proxy.allow_remote_clients = true if the network keeps strangers out",
    ),
    (
        "[proxy]\nthrottle = false\npacing = true",
        "proxy.pacing is of use only with proxy.throttle = true: add proxy.throttle = true or remove proxy.pacing",
    ),
    ("[proxy]\nmax_wait = '1h'", "proxy.max_wait is 1h: it must be between 1ms and 10m"),
    ("[proxy]\nmax_queue = 200000", "proxy.max_queue is 200000: it must be between 1 and 100000"),
    ("[proxy]\ntoken_wait = '0s'", "proxy.token_wait is 0s: it must be between 1ms and 10m"),
    (
        "[upstream]\nresponse_timeout = '2 days'",
        "upstream.response_timeout is 2days: it must be between 1ms and 1h",
    ),
    ("[proxy]\nworkers = 5000", "proxy.workers is 5000: it must be between 1 and 1024"),
    (
        "[proxy]\nreplay_memory = '1KiB'",
        "proxy.replay_memory (1.0 KiB) is smaller than proxy.max_replay_bytes (1.0 MiB): raise the one or lower the other",
    ),
    (
        "[proxy.tls]\ncertificate_file = '/nonexistent'",
        "proxy.tls.key_file is missing: [proxy.tls] needs the key of the certificate, PEM",
    ),
    (
        "[upstream]\nca_file = '/nonexistent'",
        "upstream.ca_file \"/nonexistent\" is not readable: no such file or directory",
    ),
    (
        "[upstream]\nca_file = '~/ca.pem'",
        "upstream.ca_file starts with ~, which only a shell knows: write the path in full",
    ),
    (
        "[upstream]\nurl = 'https://platform.ringcentral.com/restapi'",
        "upstream.url has a path: apps send whole paths, so write scheme, host and port only",
    ),
    (
        "[upstream]\nurl = 'https://me:canary@platform.ringcentral.com'",
        "upstream.url holds a user name or password: leave them out, a URL is printed in logs",
    ),
    (
        "[upstream]\nurl = 'platform.ringcentral.com'",
        "upstream.url is not an absolute URL: write it like https://platform.ringcentral.com",
    ),
    (
        "[upstream]\nurl = 'http://10.0.0.1'",
        "upstream.url is plain http to another machine, which shows tokens to the network: use https, or set upstream.allow_plain_http = true",
    ),
    (
        "[upstream]\nurl = 'http://localhost:8080'",
        "upstream.url http://localhost:8080 is this proxy's own address (proxy.listen 127.0.0.1:8080): \
         name RingCentral's, such as https://platform.ringcentral.com",
    ),
    (
        "[upstream]\nhttp_proxy = 'https://proxy:3128'",
        "upstream.http_proxy must begin with http://: the proxy itself is spoken to in clear text, and TLS to RingCentral passes through it",
    ),
    (
        "[application.crm.extra]",
        "configuration: line 7: unknown key `application.crm.extra`: the keys here are client_id, client_secret, token_url, revoke_url, authorize_url, device_authorization_url, redirect_uri, token_requests_per_minute",
    ),
    (
        "[application.bot]\nclient_id = 'the-id'",
        "application \"crm\": it has the same client_id as application \"bot\", and RingCentral counts requests by client_id: declare it once",
    ),
    (
        "[application.bot]\nclient_id = 'other'",
        "identity \"sales\": it may log in with any of the applications bot, crm: choose with application = \"NAME\"",
    ),
    (
        "[application.bot]",
        "application \"bot\": client_id is missing: it stands in the developer console beside the client secret",
    ),
    (
        "[application.bot]\nclient_id = 'b'\ntoken_url = 'http://10.0.0.1/token'",
        "application \"bot\": token_url is plain http to another machine, which shows tokens to the network: use https, or set upstream.allow_plain_http = true",
    ),
    (
        "[application.bot]\nclient_id = 'b'\ntoken_requests_per_minute = 100000",
        "application \"bot\": token_requests_per_minute is 100000: it must be between 1 and 1000",
    ),
    (
        "[application.'a/b']\nclient_id = 'b'",
        "application \"a/b\": this cannot be a name: use up to 64 letters, digits, - and _, a letter or digit first",
    ),
    (
        "[application.bot]\nclient_id = 'b'\nredirect_uri = 'http://10.0.0.1/callback'",
        "application \"bot\": redirect_uri is no address that a login may send the browser to: write https://…, or http:// on this machine such as http://127.0.0.1:8765/callback, without a fragment",
    ),
    (
        "[application.bot]\nclient_id = 'b'\nredirect_uri = 'http://127.0.0.1:8765/callback#top'",
        "application \"bot\": redirect_uri is no address that a login may send the browser to: write https://…, or http:// on this machine such as http://127.0.0.1:8765/callback, without a fragment",
    ),
    (
        "[application.bot]\nclient_id = 'b'\nauthorize_url = 'http://10.0.0.1/authorize'",
        "application \"bot\": authorize_url is plain http to another machine, which shows tokens to the network: use https, or set upstream.allow_plain_http = true",
    ),
    (
        "login = true\nclient_credentials = true",
        "identity \"sales\": it has client_credentials and login, each of which opens a session: keep one",
    ),
    (
        "application = 'crn'",
        "identity \"sales\": application \"crn\" is not configured: the names are crm",
    ),
    (
        "client_credentials = true",
        "identity \"sales\": it has jwt and client_credentials, each of which opens a session: keep one",
    ),
    (
        "refresh_token = 'canary'\nauthorization_code = 'canary'",
        "identity \"sales\": it has refresh_token and authorization_code, each of which opens a session: keep one",
    ),
    (
        "refresh_token = 'canary'\nusername = 'me'\npassword = 'canary'",
        "identity \"sales\": it has refresh_token and username with password, each of which opens a session: keep one",
    ),
    (
        "redirect_uri = 'https://app'",
        "identity \"sales\": redirect_uri is of use only with authorization_code: add authorization_code or remove redirect_uri",
    ),
    (
        "access_token_ttl = '5m'",
        "identity \"sales\": access_token_ttl is 5m: it must be between 10m and 1h",
    ),
    (
        "refresh_token_ttl = '8 days'",
        "identity \"sales\": refresh_token_ttl is 8days: it must be between 0s and 7days",
    ),
    (
        "access_token_ttl = '600s 1ms'",
        "identity \"sales\": access_token_ttl is 10m 1ms: RingCentral counts it in whole seconds",
    ),
    ("endpoint_id = ''", "identity \"sales\": endpoint_id is empty: give it a value or remove it"),
    (
        "[identity.bot]",
        "identity \"bot\": nothing opens its session: give it jwt, refresh_token, authorization_code, username with password, client_credentials = true, or login = true",
    ),
    (
        "[store]\nredis = 'http://canary-host'",
        "store.redis is not usable: write it as rediss://user:password@host:port",
    ),
    (
        "[store]\nredis = 'redis://:canary@10.0.0.1'",
        "store.redis is redis:// to another machine, which shows sessions to the network: use rediss://, or set store.allow_plain_redis = true",
    ),
    (
        "[store]\nredis = 'redis://localhost'\ndirectory = 'here'",
        "store.directory and store.redis are 2 stores: keep one",
    ),
    (
        "[store]\nredis = 'redis://localhost'\nredis_wait_replicas = 11",
        "store.redis_wait_replicas is 11: it must be between 0 and 10",
    ),
    (
        "[store]\nredis = 'redis://localhost'\nredis_ca_file = 'ca.pem'",
        "store.redis_ca_file is of use only with rediss:// in store.redis: add rediss:// in store.redis or remove store.redis_ca_file",
    ),
    (
        "[store]\nmemory = true\nredis = 'redis://localhost'",
        "store.redis and store.memory are 2 stores: keep one",
    ),
    (
        "[identity.bot]\nrefresh_token = 'canary'\n[store]\nmemory = true",
        "store.memory forgets sessions when the process ends, and identity \"bot\" has nothing that opens another: keep sessions in store.directory or store.redis, or give it a jwt",
    ),
    ("[facade]\nmode = 'on'", "facade.mode must be \"answer\" or \"refuse\""),
    (
        "[facade]\nkeys = ['canary']",
        "facade.keys: a key is 32 random bytes in base64, as `openssl rand -base64 32` prints them",
    ),
    (
        "[facade]\nkeys = [{ env = 'UNSET' }]",
        "facade.keys is to come from the environment variable UNSET, which is not set",
    ),
    (
        "[facade]\naccess_token_ttl = '59s'",
        "facade.access_token_ttl is 59s: it must be between 1m and 7days",
    ),
    (
        "[facade]\nrefresh_token_ttl = '2years'",
        "facade.refresh_token_ttl is 2years: it must be between 1m and 1year",
    ),
    (
        "[facade]\nredirect_uris = 'callback'",
        "facade.redirect_uris has \"callback\": write whole URIs without #, such as \"https://app.example.com/callback\"",
    ),
    ("[store]\ndirectory = ''", "store.directory is empty: give it a value or remove it"),
    ("[log]\nformat = 'xml'", "log.format must be \"text\" or \"json\""),
    (
        "[log]\nfilter = 'a=b=c'",
        "log.filter is not a filter such as \"info\" or \"warn,ringbearer=debug\": invalid filter directive: too many '=' in filter directive, expected 0 or 1",
    ),
];

/// The same with `jwt` replaced.
const CREDENTIALS: &[(&str, &str)] = &[
    (
        "jwt = { file = '/nonexistent/jwt' }",
        "identity \"sales\": jwt file \"/nonexistent/jwt\" is not readable: no such file or directory",
    ),
    ("jwt = ''", "identity \"sales\": jwt is empty as it is written"),
    (
        "jwt = { env = 'EMPTY' }",
        "identity \"sales\": jwt is empty in the environment variable EMPTY",
    ),
    (
        "jwt = { env = 'UNSET' }",
        "identity \"sales\": jwt is to come from the environment variable UNSET, which is not set",
    ),
    (
        "jwt = { credential = 'rc' }",
        "identity \"sales\": jwt is to come from the systemd credential \"rc\", but CREDENTIALS_DIRECTORY is not set: \
         add LoadCredential=rc:PATH to the unit",
    ),
    ("username = 'me'", "identity \"sales\": password is missing: username needs it"),
    ("password = 'canary'", "identity \"sales\": username is missing: password needs it"),
    (
        "authorization_code = 'canary'",
        "identity \"sales\": redirect_uri is missing: authorization_code was issued to one",
    ),
    (
        "refresh_token = 'canary'\nrefresh_token_ttl = '0s'",
        "identity \"sales\": refresh_token_ttl = \"0s\" asks for no further refresh token, but it has nothing else to renew with: remove it",
    ),
    (
        "login = true\nrefresh_token_ttl = '0s'",
        "identity \"sales\": refresh_token_ttl = \"0s\" asks for no further refresh token, but it has nothing else to renew with: remove it",
    ),
    (
        "login = true\nredirect_uri = 'http://127.0.0.1:1/'",
        "identity \"sales\": redirect_uri is of use only with authorization_code: add authorization_code or remove redirect_uri",
    ),
    (
        "refresh_token = 'canary'\n[identity.twin]\nrefresh_token = 'canary'",
        "identity \"twin\": it has the same refresh_token as identity \"sales\", and that is good only once: one of them must go",
    ),
    (
        "application = 'public'\nclient_credentials = true\n[application.public]\nclient_id = 'p'",
        "identity \"sales\": client_credentials needs a client_secret in application \"public\"",
    ),
];

fn refusal(toml: &str) -> String {
    match load(toml) {
        Ok(_) => panic!("accepted:\n{toml}"),
        Err(error) => chain(&error),
    }
}

#[test]
fn a_bad_configuration_is_refused_with_the_cure_and_without_its_secrets() {
    let appended = APPENDED.iter().map(|(lines, message)| (format!("{LEAST}{lines}"), message));
    let credentials = CREDENTIALS
        .iter()
        .map(|(lines, message)| (LEAST.replace("jwt = \"canary-jwt\"", lines), message));
    for (toml, message) in appended.chain(credentials) {
        let refusal = refusal(&toml);
        assert_eq!(refusal, *message, "{toml}");
        assert!(!refusal.contains("canary"), "{refusal}");
    }
}

#[test]
fn a_configuration_without_identity_or_application_says_what_to_add() {
    assert_eq!(
        refusal(""),
        "no identity is configured: add [identity.NAME] with what opens its session, such as jwt, or \
         [application.NAME] and run `ringbearer login NAME`"
    );
    assert_eq!(
        refusal("[identity.sales]\njwt = 'x'"),
        "identity \"sales\": no application is configured: add [application.NAME] with client_id and client_secret"
    );
}

#[test]
fn an_incomplete_environment_lists_what_is_missing() {
    let refusal = |set: &[&str]| {
        let lookup = |name: &str| set.contains(&name).then(|| "x".to_owned());
        let error = Settings::load(&ConfigSource::Environment, Overrides::default(), &lookup);
        chain(&error.unwrap_err())
    };
    assert_eq!(
        refusal(&["RC_USER_JWT"]),
        "no configuration: RC_APP_CLIENT_ID, RC_APP_CLIENT_SECRET are not set; set them, or name a file with --config; `ringbearer demo` needs neither"
    );
    assert_eq!(
        refusal(&["RINGCENTRAL_CLIENT_ID", "RC_USER_JWT"]),
        "no configuration: RC_APP_CLIENT_SECRET is not set; set it, or name a file with --config; `ringbearer demo` needs neither"
    );
    assert_eq!(
        refusal(&["RC_APP_CLIENT_ID", "RC_APP_CLIENT_SECRET", "RC_USER_JWT"]),
        "store.directory has no default because neither XDG_STATE_HOME nor HOME is set: set it"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let source = ConfigSource::File("/nonexistent/proxy.toml".into());
    let error = Settings::load(&source, Overrides::default(), &environment).unwrap_err();
    assert_eq!(
        chain(&error),
        "configuration file \"/nonexistent/proxy.toml\" is not readable: no such file or directory"
    );
}

proptest! {
    /// Whatever a slip of the keyboard does to a configuration, the complaint quotes no value.
    #[test]
    fn no_slip_makes_an_error_quote_a_secret(
        cut in 0..LEAST.len(), length in 0..3_usize, typed in "[\"'={}\\[\\]\\\\\n#, ,5a]{0,3}",
    ) {
        let end = (cut + length).min(LEAST.len());
        let toml = format!("{}{typed}{}", &LEAST[..cut], &LEAST[end..]);
        if let Err(error) = load(&toml) {
            let message = chain(&error);
            prop_assert!(!message.contains("canary"), "{message}\n{toml}");
        }
    }
}
