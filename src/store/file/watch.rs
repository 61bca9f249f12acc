//! What other processes do to the files of a store.

use std::path::Path;

use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::UnboundedSender;

use super::{ENROLMENT, identity_of};
use crate::store::Change;

/// Tells of every file that is put into place from now on, for as long as the value lives.
pub(super) fn watch(
    directory: &Path,
    tell: UnboundedSender<Change>,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        for change in event.as_ref().map_or_else(|_| vec![Change::Anything], changes) {
            // An error says that nobody listens, which ends the watch.
            let _ = tell.send(change);
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// A save ends with a link or a rename into place, the removal of an enrolment with a deletion.
fn changes(event: &Event) -> Vec<Change> {
    if event.need_rescan() {
        return vec![Change::Anything];
    }
    let moved = matches!(event.kind, EventKind::Modify(ModifyKind::Name(RenameMode::To)));
    let linked = matches!(event.kind, EventKind::Create(_));
    let removed = matches!(event.kind, EventKind::Remove(_));
    let told = |path: &&Path| {
        let suffix = path.extension();
        let is_enrolment = suffix.is_some_and(|suffix| suffix == ENROLMENT);
        let is_session = suffix.is_some_and(|suffix| suffix == "json");
        ((moved || linked) && (is_session || is_enrolment)) || (removed && is_enrolment)
    };
    let paths = event.paths.iter().filter_map(|path| path.file_name()).map(Path::new);
    let names = paths.filter(told).filter_map(identity_of);
    names.map(|identity| Change::Identity(identity, None)).collect()
}
