//! Ringbearer: a transparent authenticating reverse proxy for the RingCentral API.
//!
//! Apps send plain requests; the proxy adds an identity's access token, renews it ahead of its end,
//! and sends a request once more when RingCentral refused its token. This crate is the binary's
//! inside and serves nobody else; its API follows the binary's needs.
//!
//! # The life of a request
//!
//! ```text
//! accept (a worker thread) → server::guard: only what RFC 9112 knows → hostnames, cors: by a known name, from no stranger's page
//! → access::admit: may this pass → Found::has_looped
//! → facade: a login is answered here; a token of ours is opened
//! → routes: to which of RingCentral's hosts → selection: who calls, and as which identity
//! → policy: whether that caller may ask for this
//! → token: one atomic load; only where there is none, wait for the keeper
//! → throttle: is this group in a penalty, is it its turn; one atomic load where nothing is held
//! → headers::to_upstream: strip credentials and hop-by-hop fields, then inject
//! → upstream.send ── not 401 ────────────────────────────→ headers::to_client → stream out
//!                 └─ 401 → replay::verdict → keeper.rejected(generation) → upstream.send, once more
//! ```
//!
//! [`proxy::Proxy::handle`] is this, in this order. No renewal happens here: each identity's keeper
//! renews in the background, on the control thread, and publishes through a slot.
//!
//! # The life of a token
//!
//! ```text
//! lifecycle: renew now? by which grant? → queue: a turn in the application's budget
//! → store: lease, look again, probe → oauth: one request → store: save → slot: publish
//! ```
//!
//! What holds when a process, an answer or the store is lost in between: `docs/protocol.md`, checked by
//! `tests/protocol`.
//!
//! # Crate map
//!
//! | module | what it owns |
//! |---|---|
//! | [`cli`] | the commands: `serve`, `run`, `login`, `logout`, `export`, `import`, `status`, `reload`, `token`, `keygen`, `demo`, `check`, `doctor`, `sandbox`, `man`, `completions`; a file each under `cli/` |
//! | `config` | exactly the TOML, unknown keys refused |
//! | [`settings`] | config → settings: defaults applied, secrets fetched, contradictions refused |
//! | [`secret`] | masked newtypes and where secrets come from |
//! | `secret::key` | what seals and opens |
//! | [`key`] | keys that callers are let in with, and their digests |
//! | [`dumps`] | no core of this process is kept |
//! | [`operations`] | PURE: RingCentral's operations, as its API reference names them |
//! | [`policy`] | PURE: rules about operations, and whether a request is within them |
//! | `policy::rule`, `policy::preset`, `policy::tree` | PURE: a rule as it is written, those under a name, and all of them as one |
//! | `policy::path`, `policy::carrier`, `policy::tunnel`, `policy::review` | PURE: paths that read in one way only, requests that carry others, those that mean another method, and rules that work and are odd |
//! | [`mark`] | whether a file is still the one that was read |
//! | [`clock`] | the only reader of the clocks; tests drive it |
//! | [`metrics`] | counters, histograms, and the text that Prometheus reads; [`metrics::traffic`], what the worker threads count; [`metrics::limits`], how often each limit was reached; [`metrics::throttling`], what RingCentral's do |
//! | [`timers`] | one worker thread's coarse timeouts; [`timers::stall`] notices what stands still |
//! | [`token`] | token set and generation |
//! | [`token::lifecycle`] | PURE: when to renew, by what, and what a failure means |
//! | [`token::budget`] | PURE: whose turn it is among an application's token requests |
//! | [`token::ledger`] | PURE: the same among all processes, kept in the store |
//! | [`token::queue`] | the budget's waiting room |
//! | [`token::keeper`] | one identity's token: wait, refused, accepted; `driver` does the renewing |
//! | [`token::slot`] | how a token reaches worker threads without a lock |
//! | [`token::identities`] | from a name to its keeper |
//! | [`token::roster`] | one line per identity, as operators read it |
//! | [`token::names`] | the number of each identity's name, the same through reloads |
//! | [`oauth`] | the token endpoint's client: grant → form, answer → token set or error |
//! | `oauth::grant`, `oauth::response` | PURE: what is asked, what is answered; `oauth::endpoint` sends it |
//! | [`oauth::authorization`], [`oauth::device`] | PURE: what a login sends the person to, and what comes back |
//! | [`login`] | sessions of a person: opened (browser, paste, device, JWT), ended, kept in the store |
//! | `login::browser`, `login::callback`, `login::device` | how a person comes to agree; `login::subject`, whose session it is to be |
//! | `login::registrar`, `login::transfer` | how a session gets into the store, and from one to another |
//! | [`store`] | where token sets outlive the process; [`store::file`], a file per identity; [`store::redis`], a server or a cluster of them; [`store::memory`] |
//! | [`store::redis::limits`] | what proxies share of RingCentral's limits: places of a window, penalties |
//! | [`store::seal`] | PURE: encryption of what is stored |
//! | `store::document` | PURE: a session as a file, torn ones told from whole ones |
//! | `store::pulse`, `store::file::lock` | for how long a lease is good, and who may take it over |
//! | [`store::archive`] | sessions on their way from one store to another |
//! | [`proxy`] | the main path, and its answers where RingCentral gives none ([`proxy::error`]) |
//! | `proxy::admission` | whether a request may pass, and whose token it carries: asks the rooms below, and [`policy`] |
//! | [`proxy::access`] | PURE: what may pass |
//! | [`proxy::hostnames`], [`proxy::cors`] | PURE: by which hosts the proxy may be called, and from which web pages |
//! | [`proxy::peers`] | PURE: who calls, by the connection alone: certificate, Unix user, network |
//! | [`proxy::selection`] | PURE: who calls, by client key or connection, and as which identity, by listener, path, field or host |
//! | [`proxy::facade`] | PURE: the OAuth endpoints answered here, and the tokens handed out; `proxy::login` is the shell |
//! | [`proxy::routes`] | PURE: which of RingCentral's hosts a target is for |
//! | [`proxy::throttle`] | who may send when: penalties after a 429 and turns where requests are paced; `pace` asks it, `board` has what all threads, and a successor, share of it, `answer` reads limits out of answers |
//! | [`proxy::throttle::operations`], [`proxy::throttle::groups`] | from a request to its operation (PURE) and its rate-limit group |
//! | [`proxy::throttle::penalties`], [`proxy::throttle::window`], [`proxy::throttle::queue`], [`proxy::throttle::book`] | PURE: what is kept of one identity: silence asked for, places left, whose turn is next |
//! | [`proxy::throttle::share`] | PURE: one process's part of a window that several share; `sharing` speaks to the store |
//! | [`proxy::upgrade`] | WebSocket tunnels |
//! | [`proxy::headers`] | PURE: field rewriting, both directions |
//! | [`proxy::links`] | PURE: absolute links in answers, led back to the proxy while they stream past; `proxy::public` says where that is |
//! | [`proxy::replay`] | PURE: what a 401 means; `exchange` and [`proxy::body`] keep what a second send needs |
//! | `proxy::in_flight` | how many requests of one identity are under way |
//! | `proxy::heal` | what follows a 401 |
//! | `proxy::outbound` | content on its way to the client |
//! | `proxy::record` | what the counters, the log, the audit log and traces are told of a request |
//! | [`upstream`] | connections to RingCentral: a pool per worker thread; `patience`, PURE: who is late when no answer comes; `line`, what wakes a connection |
//! | `upstream::pool`, `upstream::places` | what is kept and how many there may be; `socket`, those that change their protocol |
//! | `upstream::connect`, `upstream::tls`, `upstream::key_log` | how a connection comes about |
//! | [`server`] | sockets in, opened here or passed by a service manager; a runtime per core, graceful end; `server::tls` reads certificates anew when they change; `places`, `opening`, `answering` and `seated` keep clients within their limits |
//! | `server::listen`, `server::activation`, `server::arrival` | sockets opened, sockets passed, and who has come in by them |
//! | `server::worker`, `server::connection` | one thread, one client; `server::patience`, how long each may take |
//! | `server::subject` | PURE: the names in a client's certificate |
//! | `socket_file` | Unix sockets as files: bound, replaced after a crash, removed |
//! | [`server::framing`], [`proxy::malformed`] | PURE: where requests begin and end by RFC 9112, and what is none; `server::guard` holds hyper to it |
//! | [`admin`] | health, readiness, metrics, identities, the status page: a listener of its own on the control thread |
//! | `admin::access`, `admin::resource`, `admin::content`, `admin::error` | who gets in, what there is to ask for, what is understood, what is refused |
//! | `admin::health`, `admin::readiness`, `admin::figures` | what is looked at; `desk` and `reload`, what is changed |
//! | `admin::page`, `admin::state`, `admin::observer` | the status page, what it asks for, and what it remembers |
//! | [`service`] | a whole proxy from its settings, its successor after a reload, and the order of its end |
//! | `service::limits` | what is known of RingCentral's limits, handed from a proxy to its successor |
//! | `cli::reign` | the proxies of one process, one after another; `cli::watch` sees that files change |
//! | [`telemetry`] | logs |
//! | `trace` | traces by OTLP, with the feature `otlp` |
//! | [`audit`] | the audit log: a file, a queue, and a thread that writes |
//! | `audit::line`, `audit::writer`, `audit::file` | what is written, by which thread, where |
//! | [`sandbox`] | the stand-in for RingCentral; shares nothing with `oauth` and `token` |
//!
//! Imports run one way: `cli → service → {server, admin} → proxy → {token, upstream}`, and
//! `login → token → {oauth, store} → settings → config`. PURE modules know no tokio, clock or lock.

pub mod admin;
pub mod audit;
pub mod cli;
pub mod clock;
mod config;
pub mod dumps;
pub mod key;
pub mod login;
pub mod mark;
pub mod metrics;
pub mod oauth;
pub mod operations;
pub mod policy;
pub mod proxy;
pub mod sandbox;
pub mod secret;
pub mod server;
pub mod service;
pub mod settings;
mod socket_file;
pub mod store;
pub mod telemetry;
pub mod timers;
pub mod token;
#[cfg(feature = "otlp")]
pub mod trace;
pub mod upstream;
