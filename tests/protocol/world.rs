//! The state of the model: the server, the store, the processes.

/// One refresh token and the access token that came with it, by the order of their making.
pub(crate) type Pair = u8;

/// The lease of a process that is dead, which nobody gives back.
pub(crate) const GHOST: usize = usize::MAX;

/// What the authorization server has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Server {
    pub(crate) strict: bool,
    pub(crate) current: Pair,
    /// The current access token was used.
    pub(crate) used: bool,
    /// The refresh token before the current one is still answered.
    pub(crate) grace: bool,
    pub(crate) ended: bool,
}

/// A token set as the store and a process know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Set {
    pub(crate) generation: u8,
    pub(crate) pair: Pair,
    pub(crate) previous: Option<Pair>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) set: Set,
    /// What a copy that lags behind by one save would have.
    pub(crate) stale: Set,
    pub(crate) lease: Option<usize>,
    pub(crate) up: bool,
}

/// Where a process is between two waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Dead,
    Starting,
    Resting,
    /// A renewal is due.
    Due,
    Leased,
    /// The store was read under the lease.
    Looked(u8),
    /// The store can be written.
    Probed(u8),
    /// The lease was live a moment ago.
    Live(u8),
    Asked(u8, Pair, Wire),
    Answered(u8, Pair, Option<Pair>),
    /// The token was refused; the store is read once more.
    Refused,
    /// Nothing is left to present.
    Lost,
}

/// Where a token request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    Travelling,
    Granted(Pair),
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    pub(crate) stage: Stage,
    pub(crate) known: Option<Set>,
    pub(crate) floor: u8,
    pub(crate) published: Option<Pair>,
    pub(crate) accepted: bool,
    /// Obtained, but not yet stored.
    pub(crate) unsaved: Option<(Pair, Option<Pair>)>,
    pub(crate) spent: bool,
    pub(crate) spent_previous: bool,
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Mishaps {
    pub(crate) crashes: u8,
    /// A process stands still until its lease has lapsed.
    pub(crate) pauses: u8,
    /// The same, but between the lease and the last look at it.
    pub(crate) early_pauses: u8,
    pub(crate) lost_answers: u8,
    pub(crate) outages: u8,
    /// A copy that lags behind takes over from the store.
    pub(crate) failovers: u8,
}

impl Mishaps {
    pub(crate) fn sum(self) -> u8 {
        self.crashes
            + self.pauses
            + self.early_pauses
            + self.lost_answers
            + self.outages
            + self.failovers
    }

    /// How many token requests may be in vain because of them. A failover takes the lease away and
    /// the latest set, too.
    pub(crate) fn cost(self) -> u8 {
        self.sum() + self.failovers
    }
}

/// A rule of the protocol that is left out, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    None,
    PublishBeforeStore,
    NoSecondLook,
    NoCompareAndSet,
    NoLease,
    NoPutBack,
    ForgetUnsaved,
    /// The lease is given back while a set is unsaved.
    FreeUnsaved,
    /// The lease is not looked at before the request is sent.
    NoLookAtLease,
}

/// What has happened, for the properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tally {
    /// Token requests, and sets that came into the store.
    pub(crate) sent: u8,
    pub(crate) saved: u8,
    /// Two writes were accepted for one generation.
    pub(crate) doubled: bool,
    /// A process went back to an older generation.
    pub(crate) fell: bool,
    pub(crate) seen: Seen,
}

/// Interesting paths that were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is a path of its own")]
pub(crate) struct Seen {
    pub(crate) adopted: bool,
    pub(crate) taken_over: bool,
    pub(crate) repeated: bool,
    pub(crate) late_write: bool,
    pub(crate) put_back: bool,
    pub(crate) outlived: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) replicas: Vec<Replica>,
    /// A request whose sender has given it up, and that may arrive yet.
    pub(crate) orphan: Option<Pair>,
    pub(crate) left: Mishaps,
    /// Of what is left, at most so many in all.
    pub(crate) in_all: u8,
    pub(crate) tally: Tally,
}

impl Server {
    /// What it answers to a refresh token.
    pub(crate) fn answer(&mut self, presented: Pair) -> Wire {
        if self.ended {
            return Wire::Refused;
        }
        if presented == self.current {
            self.current += 1;
            (self.used, self.grace) = (false, true);
            return Wire::Granted(self.current);
        }
        if self.strict {
            self.ended = true;
            return Wire::Refused;
        }
        if self.accepts(presented) { Wire::Granted(self.current) } else { Wire::Refused }
    }

    /// Whether this refresh token would bring a set.
    pub(crate) fn accepts(&self, pair: Pair) -> bool {
        let again = !self.strict && self.grace && pair + 1 == self.current;
        !self.ended && (pair == self.current || again)
    }
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::Starting,
            known: None,
            floor: 0,
            published: None,
            accepted: false,
            unsaved: None,
            spent: false,
            spent_previous: false,
        }
    }

    pub(crate) fn adopt(&mut self, set: Set, tally: &mut Tally) {
        tally.fell |= self.known.is_some_and(|known| known.generation >= set.generation);
        *self = Self {
            stage: Stage::Resting,
            known: Some(set),
            floor: self.floor.max(set.generation),
            published: Some(set.pair),
            ..Self::new()
        };
    }

    pub(crate) fn is_newer(&self, set: Set) -> bool {
        self.known.is_none_or(|known| set.generation > known.generation)
    }

    /// Which refresh token comes next.
    pub(crate) fn source(&self) -> Option<Pair> {
        let known = self.known?;
        let previous = known.previous.filter(|_| !self.spent_previous && !self.accepted);
        if self.spent { previous } else { Some(known.pair) }
    }
}
