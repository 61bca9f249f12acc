//! The protocol by which several proxies renew one session, checked exhaustively: every order of
//! steps of two or three processes, the store and the authorization server, with crashes, pauses
//! past the lease, lost answers, outages of the store and stale copies of it.
//!
//! What the checker finds where the protocol cannot hold is asserted, too, and so is that it
//! notices every rule of the protocol that is left out.

use stateright::{Checker, HasDiscoveries, Model, Property};

mod steps;
mod world;

use world::{GHOST, Mishaps, Mutation, Replica, Server, Set, Stage, Store, Tally, World};

/// What is checked.
#[derive(Clone)]
struct Protocol {
    replicas: usize,
    strict: bool,
    /// No renewal begins at this generation.
    generations: u8,
    mishaps: Mishaps,
    /// At most so many mishaps in one history.
    in_all: u8,
    mutation: Mutation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Step(usize),
    FallDue(usize),
    Call(usize),
    Hear(usize),
    Serve(usize),
    ServeOrphan,
    Deliver(usize),
    LoseAnswer(usize),
    Crash(usize),
    Start(usize),
    Pause(usize),
    PauseEarly(usize),
    GhostLapses,
    GraceEnds,
    StoreFails,
    StoreReturns,
    FailOver,
}

const NO_SESSION_LOST: &str = "no session is lost";
const ONE_WRITE: &str = "one write per generation is accepted";
const ONE_REQUEST: &str = "one token request per generation and mishap";
const NEVER_BACK: &str = "no process goes back";
const RENEWED: &str = "a session is renewed to the end";
const ADOPTED: &str = "another's renewal is adopted";
const TAKEN_OVER: &str = "a renewal is taken over";
const REPEATED: &str = "the old refresh token brings the new set again";
const LATE_WRITE: &str = "a late write is refused";
const PUT_BACK: &str = "a lost set is put back";
const OUTLIVED: &str = "a set outlives an outage of the store";

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let set = Set { generation: 1, pair: 1, previous: None };
        vec![World {
            server: Server {
                strict: self.strict,
                current: 1,
                used: true,
                grace: false,
                ended: false,
            },
            store: Store { set, stale: set, lease: None, up: true },
            replicas: vec![Replica::new(); self.replicas],
            orphan: None,
            left: self.mishaps,
            in_all: self.in_all,
            tally: Tally::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for id in 0..self.replicas {
            actions.extend(
                [Action::Step, Action::FallDue, Action::Call, Action::Hear].map(|act| act(id)),
            );
            actions.extend([Action::Serve, Action::Deliver, Action::Start].map(|act| act(id)));
        }
        actions.extend([
            Action::ServeOrphan,
            Action::GhostLapses,
            Action::GraceEnds,
            Action::StoreReturns,
        ]);
        if world.in_all == 0 {
            return;
        }
        for id in 0..self.replicas {
            if world.left.crashes > 0 {
                actions.push(Action::Crash(id));
            }
            if world.left.pauses > 0 {
                actions.push(Action::Pause(id));
            }
            if world.left.early_pauses > 0 {
                actions.push(Action::PauseEarly(id));
            }
            if world.left.lost_answers > 0 {
                actions.push(Action::LoseAnswer(id));
            }
        }
        if world.left.outages > 0 {
            actions.push(Action::StoreFails);
        }
        if world.left.failovers > 0 {
            actions.push(Action::FailOver);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        let went = self.apply(&mut world, action);
        let mishaps = before.left.sum() - world.left.sum();
        world.in_all -= mishaps;
        (went && world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NO_SESSION_LOST, |_, world: &World| world.is_recoverable()),
            Property::always(ONE_WRITE, |_, world: &World| !world.tally.doubled),
            Property::always(ONE_REQUEST, |model: &Self, world: &World| {
                let in_vain = model.mishaps.cost() - world.left.cost();
                world.tally.sent <= world.tally.saved + world.pending() + in_vain
            }),
            Property::always(NEVER_BACK, |_, world: &World| !world.tally.fell),
            Property::sometimes(RENEWED, |model: &Self, world: &World| {
                world.store.set.generation == model.generations && world.server.used
            }),
            Property::sometimes(ADOPTED, |_, world: &World| world.tally.seen.adopted),
        ];
        let mishaps = self.mishaps;
        if mishaps.pauses > 0 {
            properties.push(Property::sometimes(TAKEN_OVER, |_, world: &World| {
                world.tally.seen.taken_over
            }));
            properties.push(Property::sometimes(LATE_WRITE, |_, world: &World| {
                world.tally.seen.late_write
            }));
        }
        if !self.strict && mishaps.crashes + mishaps.pauses + mishaps.lost_answers > 0 {
            properties
                .push(Property::sometimes(REPEATED, |_, world: &World| world.tally.seen.repeated));
        }
        if mishaps.failovers > 0 {
            properties
                .push(Property::sometimes(PUT_BACK, |_, world: &World| world.tally.seen.put_back));
        }
        if mishaps.outages > 0 {
            properties
                .push(Property::sometimes(OUTLIVED, |_, world: &World| world.tally.seen.outlived));
        }
        properties
    }
}

impl Protocol {
    /// Two processes, two renewals, a server with a grace period, and nothing goes wrong.
    const fn calm() -> Self {
        let mishaps = Mishaps {
            crashes: 0,
            pauses: 0,
            early_pauses: 0,
            lost_answers: 0,
            outages: 0,
            failovers: 0,
        };
        Self {
            replicas: 2,
            strict: false,
            generations: 3,
            mishaps,
            in_all: 0,
            mutation: Mutation::None,
        }
    }

    fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    fn with(self, in_all: u8, mishaps: Mishaps) -> Self {
        Self { mishaps, in_all, ..self }
    }

    fn without(self, mutation: Mutation) -> Self {
        Self { mutation, ..self }
    }

    /// Does it, if it can be done.
    fn apply(&self, world: &mut World, action: Action) -> bool {
        let mutation = self.mutation;
        match action {
            Action::Step(id) => return world.step(id, mutation),
            Action::Call(id) => return world.call(id),
            Action::Hear(id) => return world.hear(id, mutation),
            Action::Serve(id) => return world.serve(id),
            Action::ServeOrphan => return world.serve_orphan(),
            Action::Deliver(id) => return world.deliver(id, mutation),
            Action::LoseAnswer(id) => return world.lose_answer(id),
            Action::FallDue(id) => {
                let replica = &mut world.replicas[id];
                let early = replica.known.is_some_and(|set| set.generation < self.generations);
                if replica.stage != Stage::Resting || !early {
                    return false;
                }
                replica.stage = Stage::Due;
            }
            Action::Crash(id) => {
                if world.replicas[id].stage == Stage::Dead {
                    return false;
                }
                world.crash(id);
            }
            Action::Start(id) => {
                if world.replicas[id].stage != Stage::Dead {
                    return false;
                }
                world.replicas[id].stage = Stage::Starting;
            }
            Action::Pause(id) => {
                if world.store.lease != Some(id) {
                    return false;
                }
                world.store.lease = None;
                world.left.pauses -= 1;
            }
            Action::PauseEarly(id) => {
                let stage = world.replicas[id].stage;
                let early = matches!(stage, Stage::Leased | Stage::Looked(_) | Stage::Probed(_));
                if world.store.lease != Some(id) || !early {
                    return false;
                }
                world.store.lease = None;
                world.left.early_pauses -= 1;
            }
            Action::GhostLapses => {
                world.store.lease = world.store.lease.filter(|holder| *holder != GHOST);
            }
            Action::GraceEnds => world.server.grace &= !world.server.used,
            Action::StoreFails => {
                if !world.store.up {
                    return false;
                }
                world.store.up = false;
                world.left.outages -= 1;
            }
            Action::StoreReturns => world.store.up = true,
            Action::FailOver => world.fail_over(),
        }
        true
    }

    /// Visits every state, and says how many there are and how long the longest history is.
    #[allow(clippy::print_stdout, reason = "docs/protocol.md has these figures")]
    fn check(self, name: &str) -> impl Checker<Self> {
        let checker = self.checker().threads(2).spawn_bfs().join();
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        println!("{name}: {states} states, {depth} steps deep");
        checker
    }

    fn holds(self, name: &str) {
        self.check(name).assert_properties();
    }

    /// The checker finds a history in which `property` does not hold.
    #[allow(clippy::print_stdout, reason = "docs/protocol.md has these figures")]
    fn breaks(self, name: &str, property: &'static str) {
        let enough = HasDiscoveries::AnyOf([property].into());
        let checker = self.checker().finish_when(enough).spawn_bfs().join();
        let Some(history) = checker.discovery(property) else {
            panic!("{name}: no history was found in which not {property:?}");
        };
        println!("{name}: refuted by {} steps", history.into_actions().len());
    }
}

const EACH: Mishaps =
    Mishaps { crashes: 1, pauses: 1, early_pauses: 0, lost_answers: 1, outages: 1, failovers: 0 };
const CRASH: Mishaps = Mishaps { crashes: 1, ..NONE };
const PAUSE: Mishaps = Mishaps { pauses: 1, ..NONE };
const LOST_ANSWER: Mishaps = Mishaps { lost_answers: 1, ..NONE };
const EARLY_PAUSE: Mishaps = Mishaps { early_pauses: 1, ..NONE };
const OUTAGE: Mishaps = Mishaps { outages: 1, ..NONE };
const FAILOVER: Mishaps = Mishaps { failovers: 1, ..NONE };
const NONE: Mishaps =
    Mishaps { crashes: 0, pauses: 0, early_pauses: 0, lost_answers: 0, outages: 0, failovers: 0 };

#[test]
fn with_a_grace_period_no_two_mishaps_lose_a_session() {
    Protocol::calm().with(2, EACH).holds("grace, any two of crash, pause, lost answer, outage");
}

#[test]
fn three_processes_renew_once_per_generation() {
    let three = Protocol { replicas: 3, generations: 2, ..Protocol::calm() };
    three.with(1, CRASH).holds("grace, three processes");
}

#[test]
fn a_stale_copy_of_the_store_is_put_right_by_a_process_that_lives() {
    Protocol::calm().with(1, FAILOVER).holds("grace, failover");
}

#[test]
fn a_strict_server_loses_no_session_while_processes_and_answers_arrive() {
    let strict = Protocol::calm().strict();
    strict.clone().with(2, Mishaps { outages: 2, ..NONE }).holds("strict, two outages");
    strict.with(2, Mishaps { early_pauses: 2, ..NONE }).holds("strict, two pauses before the send");
}

#[test]
fn a_strict_server_ends_the_session_of_whoever_cannot_know_what_became_of_a_request() {
    for (name, mishaps) in
        [("strict, pause", PAUSE), ("strict, lost answer", LOST_ANSWER), ("strict, crash", CRASH)]
    {
        Protocol::calm().strict().with(1, mishaps).breaks(name, NO_SESSION_LOST);
    }
}

#[test]
fn a_stale_copy_and_a_crash_of_every_process_that_knew_better_lose_the_session() {
    let both = Mishaps { failovers: 1, crashes: 2, ..NONE };
    Protocol::calm().with(3, both).breaks("grace, failover, two crashes", NO_SESSION_LOST);
}

#[test]
fn every_rule_that_is_left_out_is_missed() {
    for (mutation, mishaps, property) in [
        (Mutation::PublishBeforeStore, CRASH, NO_SESSION_LOST),
        (Mutation::NoSecondLook, NONE, ONE_REQUEST),
        (Mutation::NoCompareAndSet, PAUSE, ONE_WRITE),
        (Mutation::NoLease, NONE, ONE_REQUEST),
    ] {
        let model = Protocol::calm().with(mishaps.sum(), mishaps).without(mutation);
        model.breaks(&format!("{mutation:?}"), property);
    }
    for (mutation, mishaps) in [
        (Mutation::NoSecondLook, NONE),
        (Mutation::ForgetUnsaved, OUTAGE),
        (Mutation::FreeUnsaved, OUTAGE),
        (Mutation::NoLookAtLease, EARLY_PAUSE),
    ] {
        let model = Protocol::calm().strict().with(mishaps.sum(), mishaps).without(mutation);
        model.breaks(&format!("{mutation:?}, strict"), NO_SESSION_LOST);
    }
    let failover = Protocol::calm().with(1, FAILOVER).without(Mutation::NoPutBack);
    assert!(failover.check("NoPutBack").discovery(PUT_BACK).is_none());
}
