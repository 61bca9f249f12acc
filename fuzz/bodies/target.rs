//! Whatever the target of a request is, what goes on is an end of what came, byte for byte, and begins
//! with a slash: neither a path nor a name in it can lead elsewhere.

use http::Uri;
use ringbearer::proxy::routes::{Routes, take_identity};

pub(crate) fn run(input: &[u8]) {
    let Ok(mut target) = Uri::try_from(input) else { return };
    let came = target.path_and_query().map_or("/", |it| it.as_str()).to_owned();
    if let Ok(Some(name)) = take_identity(&mut target) {
        assert!(came.starts_with(&format!("/.ringbearer/as/{name}/")), "{came}");
    }
    if Routes::new(&[]).find(&mut target).is_err() {
        return;
    }
    let goes = target.path_and_query().map_or("/", |it| it.as_str());
    assert!(came.ends_with(goes), "{goes} is no end of {came}");
    assert!(goes.starts_with('/') || came == goes, "{goes}");
}
