//! `ringbearer export` and `import`: a session from one store to another, and not into two.

use ringbearer::sandbox::Rules;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::login_site::{Ended, Site};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Two stores of one application, the first with a person's session and a JWT's.
struct Two(Site);

impl Two {
    async fn with(there: &str) -> Self {
        let site = Site::new(Rules::unlimited(), "").await;
        site.configure("other", &format!("{there}[store]\ndirectory = 'other'\n"));
        let mut login = site.start("login sales --no-browser");
        site.agree(&login.address().await).await;
        assert_eq!(login.ended().await.code, Some(0));
        let jwt = site.write("jwt", "sandbox-jwt-7");
        assert_eq!(site.run(&format!("login bot --jwt-file {jwt}")).await.code, Some(0));
        site.write("key", KEY);
        site.write("other-key", OTHER_KEY);
        Self(site)
    }

    async fn export(&self, words: &str) -> Ended {
        let key = self.0.path("key");
        self.0.run(&format!("export --key-file {key} {words}")).await
    }

    async fn import(&self, key: &str, words: &str, configuration: &str) -> Ended {
        let words = format!("import --key-file {} {words}", self.0.path(key));
        self.0.start_with(&words, configuration, "\n", &[]).ended().await
    }
}

#[tokio::test]
async fn a_moved_session_goes_on_in_the_other_store_and_is_logged_out_in_the_first() {
    let two = Two::with("").await;
    let site = &two.0;
    let (here, there) = (site.serve("proxy"), site.serve("other"));
    assert_eq!(site.ask(&here, Some("sales")).await.0, 200);
    let archive = site.path("archive");
    let ended = two.export(&format!("--all --move --output {archive}")).await;
    assert_eq!(
        (ended.code, &*ended.out, &*ended.err),
        (Some(0), "", "bot: moved: logged out here\nsales: moved: logged out here\n")
    );
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let content = fs::read_to_string(&archive).unwrap();
    assert!(!content.contains("sandbox-"), "{content}");
    site.ask_until(&here, Some("sales"), 403).await;

    let ended = two.import("key", &archive, "other").await;
    assert_eq!(
        (ended.code, &*ended.out, &*ended.err),
        (Some(0), "bot: is stored, generation 1\nsales: is stored, generation 1\n", "")
    );
    for (identity, session) in [("sales", 1), ("bot", 2)] {
        assert_eq!(site.ask(&there, Some(identity)).await.0, 200);
        assert_eq!(site.last_session(), Some(session), "{identity}");
    }
    let counts = site.control().counts();
    assert_eq!((counts.token_requests, counts.revocations), (2, 0), "the sessions went on");
    let again = two.import("key", &archive, "other").await;
    assert_eq!(
        (again.code, &*again.out),
        (Some(0), "bot: is here already\nsales: is here already\n")
    );
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn what_was_moved_comes_back_only_on_demand() {
    let two = Two::with("").await;
    let archive = two.0.path("archive");
    assert_eq!(two.export(&format!("sales --move --output {archive}")).await.code, Some(0));
    let ended = two.import("key", &archive, "proxy").await;
    assert_eq!(
        (ended.code, &*ended.out, &*ended.err),
        (
            Some(1),
            "sales: is NOT stored: the store has generation 2, the archive 1; --replace takes the \
             archive's all the same\n",
            "ringbearer: 1 of 1 identities are not imported\n"
        )
    );
    let ended = two.import("key", &format!("{archive} --replace"), "proxy").await;
    assert_eq!((ended.code, &*ended.out), (Some(0), "sales: is stored, generation 3\n"));
    let proxy = two.0.serve("proxy");
    assert_eq!(two.0.ask(&proxy, Some("sales")).await.0, 200);
    proxy.stop().await;
}

#[tokio::test]
async fn a_copy_goes_to_standard_output_with_a_warning_that_it_is_one() {
    let two = Two::with("").await;
    let ended = two.export("sales bot").await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        ended.err,
        "sales: copied\nbot: copied\nA session can live in one place only: sales would end in both \
         stores with the first renewal in either. Use it here or there, not both; --move exports and logs \
         out here.\n"
    );
    let words = format!("import --key-file {}", two.0.path("key"));
    let ended = two.0.start_with(&words, "other", &ended.out, &[]).ended().await;
    assert_eq!(
        (ended.code, &*ended.out),
        (Some(0), "sales: is stored, generation 1\nbot: is stored, generation 1\n")
    );
}

#[tokio::test]
async fn a_cut_off_archive_and_another_key_are_refused_and_nothing_is_stored() {
    let two = Two::with("").await;
    let site = &two.0;
    let archive = site.path("archive");
    assert_eq!(two.export(&format!("--all --output {archive}")).await.code, Some(0));
    let ended = two.import("other-key", &archive, "other").await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: the archive is sealed with key \"630dcd29\", and --key-file holds key \
             \"fb1e9ca2\": give the key that it was exported with\n"
        )
    );
    let whole = fs::read_to_string(&archive).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 2] {
        let cut = site.write("cut", &whole[..length]);
        let ended = two.import("key", &cut, "other").await;
        assert_eq!(
            (ended.code, &*ended.err),
            (
                Some(1),
                "ringbearer: this is no whole archive of `ringbearer export`: it is cut off, changed, or \
                 something else\n"
            ),
            "{length}"
        );
    }
    let short = site.write("short", "AAAA");
    let ended = site.run(&format!("export --all --key-file {short}")).await;
    let message = format!(
        "ringbearer: --key-file \"{short}\" holds no key: a key is 32 random bytes in base64, as \
         `openssl rand -base64 32` prints them\n"
    );
    assert_eq!((ended.code, &*ended.out, ended.err), (Some(2), "", message));
    let nothing = format!("export --all --key-file {}", site.path("key"));
    let ended = site.start_with(&nothing, "other", "\n", &[]).ended().await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: the store has neither a session nor an added identity: there is nothing to \
             export\n"
        )
    );
}

#[tokio::test]
async fn a_session_that_the_other_configuration_would_not_use_is_left_out() {
    let two =
        Two::with("[identity.sales]\njwt = 'sandbox-jwt'\n[identity.bot]\nlogin = true\n").await;
    let archive = two.0.path("archive");
    assert_eq!(two.export(&format!("sales --output {archive}")).await.code, Some(0));
    let ended = two.import("key", &archive, "other").await;
    assert_eq!(
        (ended.code, &*ended.out),
        (
            Some(1),
            "sales: is NOT stored: [identity.NAME] here has another credential or application than \
             opened the session, and would not use it\n"
        )
    );
    let ended = two.export("nobody").await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: the store has neither a session nor an enrolment of identity \"nobody\"\n"
        )
    );
}

#[tokio::test]
async fn a_configured_logins_session_is_added_where_it_is_not_configured() {
    let two = Two::with("[identity.pat]\nlogin = true\n").await;
    let site = &two.0;
    let mut login = site.start_with("login pat --no-browser", "other", "", &[]);
    site.agree(&login.address().await).await;
    assert_eq!(login.ended().await.code, Some(0));
    let archive = site.path("archive");
    let words = format!("export pat --move --key-file {} --output {archive}", site.path("key"));
    assert_eq!(site.start_with(&words, "other", "\n", &[]).ended().await.code, Some(0));
    let ended = two.import("key", &archive, "proxy").await;
    assert_eq!((ended.code, &*ended.out), (Some(0), "pat: is stored, generation 1\n"));
    let proxy = site.serve("proxy");
    assert_eq!(site.ask(&proxy, Some("pat")).await.0, 200);
    assert_eq!(site.last_session(), Some(3));
    proxy.stop().await;
}
