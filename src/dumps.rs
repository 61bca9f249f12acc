//! What is in this process's memory stays there: the system keeps no core of it after a crash, and no
//! other process of the same user reads it, or the environment that it was started with.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// How it was before [`forbid`].
#[derive(Debug)]
pub struct Before {
    core_size: Rlimit,
}

/// Forbids it. To be called first, before any secret is read. Where the system does not know of such
/// a thing, nothing changes.
///
/// The attribute alone would do: it ends with the next `exec`. The limit is what operators look at,
/// and for crash handlers that do not ask for the attribute; the hard limit stays as it is, so that a command that
/// this process starts can raise it again.
pub fn forbid() -> Before {
    let core_size = getrlimit(Resource::Core);
    // Neither can fail for this process itself.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..core_size });
    Before { core_size }
}

impl Before {
    /// As if it had never been forbidden.
    pub fn restore(self) {
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        self.restore_limit();
    }

    /// For a command that is to be started: how large its cores may be is its own affair.
    pub fn restore_limit(self) {
        let _ = setrlimit(Resource::Core, self.core_size);
    }
}
