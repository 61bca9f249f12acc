//! The event loop: processes with their lifecycles and budgets, one ledger, one store, one server.
//!
//! It does what `queue.rs` and `keeper/driver.rs` do, in virtual time and in one thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use super::super::{Budget, Class, Permit, Ticket, Turn, WINDOW};
use super::{Plan, Report, START};
use crate::clock::Timestamp;
use crate::store::Outline;
use crate::token::Generation;
use crate::token::ledger::{ASK_AGAIN, Leave, Ledger};
use crate::token::lifecycle::{
    Action, Event, Failure, Known, Lifecycle, Means, Pace, Signal, keep_alive_due,
};

const LIMIT: usize = 5;
const PATROL: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// A new token is used so long after it came.
const USED_AFTER: Duration = Duration::from_secs(1);

/// Something that happens in a process, or to an identity of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Occasion {
    /// A lifecycle's rest is over, unless it went on meanwhile.
    Wake {
        process: usize,
        identity: usize,
        round: u64,
    },
    /// The first in the queue asks the ledger again.
    Ask {
        process: usize,
        round: u64,
    },
    /// A token request arrives at the server.
    Arrive {
        identity: usize,
    },
    Answer {
        process: usize,
        identity: usize,
    },
    /// An API request with the latest token is let in.
    Use {
        process: usize,
        identity: usize,
        generation: Generation,
    },
    /// An API request comes when the token of this generation has expired.
    Meet {
        process: usize,
        identity: usize,
        generation: Generation,
    },
    Patrol {
        process: usize,
    },
    /// An idle session's end is near.
    Reconsider {
        process: usize,
        identity: usize,
    },
}

pub(super) struct World {
    plan: Plan,
    now: Timestamp,
    agenda: BinaryHeap<Reverse<(Timestamp, u64, Occasion)>>,
    scheduled: u64,
    processes: Vec<Process>,
    ledger: Ledger,
    requests: u64,
    /// What the store has of each identity, and whether its lease is taken.
    kept: Vec<Option<Known>>,
    /// When each idle session is due.
    due: Vec<Timestamp>,
    leased: Vec<bool>,
    arrivals: VecDeque<Timestamp>,
    random: u64,
    report: Report,
}

struct Process {
    name: String,
    budget: Budget,
    queued: HashMap<u64, usize>,
    agents: HashMap<usize, Agent>,
    round: u64,
}

/// A lifecycle at work, with what its driver holds.
struct Agent {
    machine: Lifecycle,
    round: u64,
    ticket: Option<Ticket>,
    flight: Option<(Permit, String)>,
    waits_since: Option<Timestamp>,
}

impl World {
    /// The active identities have no token yet; the idle ones were opened as fast as the budget lets.
    pub(super) fn new(plan: Plan) -> Self {
        let all = plan.active + plan.idle;
        let process = |n| Process {
            name: format!("process-{n}"),
            budget: Budget::new(LIMIT),
            queued: HashMap::new(),
            agents: HashMap::new(),
            round: 0,
        };
        let mut world = Self {
            now: START,
            agenda: BinaryHeap::new(),
            scheduled: 0,
            processes: (0..plan.processes).map(process).collect(),
            ledger: Ledger::default(),
            requests: 0,
            kept: vec![None; all],
            due: vec![START + WEEK * 2; all],
            leased: vec![false; all],
            arrivals: VecDeque::new(),
            random: 0x5eed,
            report: Report::default(),
            plan,
        };
        for n in 0..world.plan.idle {
            let opened = START - world.plan.opened_every * u32::try_from(n).expect("few");
            let identity = world.plan.active + n;
            let known = world.known(identity, Generation::new(1), opened);
            world.keep(identity, known);
        }
        world
    }

    pub(super) fn run(mut self) -> Report {
        for process in 0..self.processes.len() {
            for identity in 0..self.plan.active {
                self.hire(process, identity);
            }
            self.schedule(START, Occasion::Patrol { process });
        }
        let end = START + self.plan.time;
        while let Some(Reverse((at, _, occasion))) = self.agenda.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.happen(occasion);
        }
        self.now = end;
        let ended = |known: &Known| known.refresh.flatten().is_some_and(|ends| ends <= end);
        self.report.lost += self.kept.iter().flatten().filter(|known| ended(known)).count();
        self.report
    }

    fn happen(&mut self, occasion: Occasion) {
        match occasion {
            Occasion::Wake { process, identity, round } => {
                let agent = self.processes[process].agents.get(&identity);
                if agent.is_some_and(|agent| agent.round == round) {
                    self.go(process, identity, Event::Time);
                }
            }
            Occasion::Ask { process, round } => {
                if self.processes[process].round == round {
                    self.ask(process);
                }
            }
            Occasion::Arrive { identity } => self.arrive(identity),
            Occasion::Answer { process, identity } => self.answer(process, identity),
            Occasion::Use { process, identity, generation } => {
                self.signal(process, identity, Signal::Accepted(generation));
            }
            Occasion::Meet { process, identity, generation } => {
                let known = self.kept[identity].map(|known| known.generation);
                if known == Some(generation) {
                    self.report.expired += 1;
                    self.want(process, identity);
                }
            }
            Occasion::Patrol { process } => self.patrol(process),
            Occasion::Reconsider { process, identity } => self.reconsider(process, identity),
        }
    }

    fn schedule(&mut self, at: Timestamp, occasion: Occasion) {
        self.scheduled += 1;
        self.agenda.push(Reverse((at, self.scheduled, occasion)));
    }

    /// `SplitMix64`.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn is_active(&self, identity: usize) -> bool {
        identity < self.plan.active
    }

    /// A set as RingCentral issues it: `expires_in` is 3599 or 3598.
    fn known(&mut self, identity: usize, generation: Generation, at: Timestamp) -> Known {
        let less = 1 + self.random(2);
        let expires_at = at + Duration::from_secs(3600 - less);
        let refresh = (!self.is_active(identity)).then_some(Some(at + WEEK));
        Known { generation, issued_at: at, expires_at, refresh, previous_refresh: false }
    }

    fn hire(&mut self, process: usize, identity: usize) {
        let active = self.is_active(identity);
        let means = if active { Means::Reopens } else { Means::Once };
        let pace = Pace::of(&format!("identity-{identity}"));
        let machine = Lifecycle::new(means, false, pace, self.now);
        let agent = Agent { machine, round: 0, ticket: None, flight: None, waits_since: None };
        self.processes[process].agents.insert(identity, agent);
        if identity < self.plan.wanted && process == identity % self.plan.processes {
            self.want(process, identity);
        } else {
            self.go(process, identity, Event::Time);
        }
    }

    fn want(&mut self, process: usize, identity: usize) {
        let now = self.now;
        if let Some(agent) = self.processes[process].agents.get_mut(&identity) {
            agent.waits_since.get_or_insert(now);
        }
        self.signal(process, identity, Signal::Wanted);
    }

    fn signal(&mut self, process: usize, identity: usize, signal: Signal) {
        let now = self.now;
        let Process { agents, budget, .. } = &mut self.processes[process];
        let Some(agent) = agents.get_mut(&identity) else { return };
        agent.machine.note(signal, now);
        if let Some(ticket) = &mut agent.ticket {
            if budget.reclass(ticket, agent.machine.class(now)) {
                self.ask(process);
            }
        } else if agent.flight.is_none() {
            self.go(process, identity, Event::Time);
        }
    }

    /// What the driver does: the machine decides, until there is something to wait for.
    fn go(&mut self, process: usize, identity: usize, mut event: Event) {
        loop {
            let (now, kept, active) = (self.now, self.kept[identity], self.is_active(identity));
            let Process { agents, budget, queued, .. } = &mut self.processes[process];
            let agent = agents.get_mut(&identity).expect("it is at work");
            agent.round += 1;
            match agent.machine.step(event, now) {
                Action::Read => {
                    let latest = agent.machine.latest().map(|known| known.generation);
                    let newer = kept.filter(|known| Some(known.generation) > latest);
                    event = Event::Read(newer);
                    if newer.is_some() {
                        self.came(process, identity);
                    }
                }
                Action::Renew(_) => {
                    let class = agent.machine.class(now);
                    let ticket = budget.join(class);
                    queued.insert(ticket.number, identity);
                    agent.ticket = Some(ticket);
                    if let (false, Class::Expiring(at)) = (active, class) {
                        self.schedule(at, Occasion::Reconsider { process, identity });
                    }
                    return self.ask(process);
                }
                Action::Rest(_) if !active => {
                    agents.remove(&identity);
                    return;
                }
                Action::Rest(until) => {
                    let round = agent.round;
                    if let Some(until) = until {
                        self.schedule(until, Occasion::Wake { process, identity, round });
                    }
                    return;
                }
                Action::Continue => unreachable!("a finished action was reported"),
            }
        }
    }

    /// The first in the queue of this process asks for its turn.
    fn ask(&mut self, process: usize) {
        let now = self.now;
        loop {
            let it = &mut self.processes[process];
            it.round += 1;
            let Some((class, number)) = it.budget.queue.first().copied() else { return };
            let identity = it.queued[&number];
            let agent = it.agents.get_mut(&identity).expect("it is queued");
            let ticket = agent.ticket.as_mut().expect("it is queued");
            if it.budget.reclass(ticket, agent.machine.class(now)) {
                continue;
            }
            let at = match it.budget.blocked(ticket, now) {
                Some(Turn::At(at)) => at,
                Some(_) => return,
                None => {
                    self.requests += 1;
                    let request = self.requests.to_string();
                    match self.ledger.ask(&it.name, &request, class, LIMIT, now) {
                        Leave::Granted => {
                            self.begin(process, identity, request);
                            continue;
                        }
                        Leave::At(at) => at.min(now + ASK_AGAIN),
                        Leave::Behind => now + ASK_AGAIN,
                    }
                }
            };
            let round = self.processes[process].round;
            return self.schedule(at, Occasion::Ask { process, round });
        }
    }

    /// The end of an idle session that is still queued has come nearer.
    fn reconsider(&mut self, process: usize, identity: usize) {
        let Process { agents, budget, .. } = &mut self.processes[process];
        let Some(agent) = agents.get_mut(&identity) else { return };
        let Some(ticket) = &mut agent.ticket else { return };
        if budget.reclass(ticket, agent.machine.class(self.now)) {
            self.ask(process);
        } else {
            let again = self.now + PATROL / 2;
            self.schedule(again, Occasion::Reconsider { process, identity });
        }
    }

    /// Lease, look again, send.
    fn begin(&mut self, process: usize, identity: usize, request: String) {
        let now = self.now;
        let it = &mut self.processes[process];
        let agent = it.agents.get_mut(&identity).expect("it has asked");
        let ticket = agent.ticket.take().expect("it was queued");
        it.queued.remove(&ticket.number);
        let permit = it.budget.grant(&ticket);
        let latest = agent.machine.latest().map(|known| known.generation);
        let newer = self.kept[identity].filter(|known| Some(known.generation) > latest);
        if newer.is_none() && !self.leased[identity] {
            self.leased[identity] = true;
            agent.flight = Some((permit, request));
            let latency = self.plan.latency;
            let travel = self.random(u64::try_from(latency.as_millis()).expect("short") + 1);
            self.schedule(now + Duration::from_millis(travel), Occasion::Arrive { identity });
            return self.schedule(now + latency, Occasion::Answer { process, identity });
        }
        it.budget.settle_unsent(permit);
        self.ledger.settle(&request, false, now);
        let event = newer.map_or(Event::Failed(Failure::LeaseHeld), Event::Obtained);
        self.go(process, identity, event);
        if newer.is_some() {
            self.came(process, identity);
        }
    }

    /// RingCentral's rule: five in any sixty seconds.
    fn arrive(&mut self, identity: usize) {
        let now = self.now;
        while self.arrivals.front().is_some_and(|at| *at + WINDOW <= now) {
            self.arrivals.pop_front();
        }
        self.report.token_requests += 1;
        self.report.refused += usize::from(self.arrivals.len() >= LIMIT);
        self.arrivals.push_back(now);
        let ends = self.kept[identity].and_then(|known| known.refresh).flatten();
        if ends.is_some_and(|ends| ends <= now) {
            self.report.lost += 1;
        }
    }

    fn answer(&mut self, process: usize, identity: usize) {
        let now = self.now;
        let it = &mut self.processes[process];
        let agent = it.agents.get_mut(&identity).expect("it has asked");
        let (permit, request) = agent.flight.take().expect("it has asked");
        it.budget.settle_sent(permit, now);
        self.ledger.settle(&request, true, now);
        let generation = self.kept[identity].map_or(Generation::NONE, |known| known.generation);
        if generation == Generation::NONE {
            let all_waited = self.report.waited_first == self.report.first_tokens.len();
            self.report.waited_first += usize::from(identity < self.plan.wanted && all_waited);
            self.report.first_tokens.push(START.until(now));
        }
        let known = self.known(identity, generation.next(), now);
        self.keep(identity, known);
        self.leased[identity] = false;
        self.go(process, identity, Event::Obtained(known));
        self.came(process, identity);
        for other in (0..self.processes.len()).filter(|other| *other != process) {
            self.hear(other, identity, known);
        }
        if self.is_active(identity) && self.plan.used {
            let process = usize::try_from(self.random(self.plan.processes as u64)).expect("few");
            let generation = known.generation;
            let met = known.expires_at + Duration::from_millis(1);
            self.schedule(met, Occasion::Meet { process, identity, generation });
        }
        self.ask(process);
    }

    /// Another process has renewed.
    fn hear(&mut self, process: usize, identity: usize, known: Known) {
        let Process { agents, budget, queued, .. } = &mut self.processes[process];
        let Some(agent) = agents.get_mut(&identity) else { return };
        if let Some(ticket) = agent.ticket.take() {
            budget.leave(&ticket);
            queued.remove(&ticket.number);
            self.go(process, identity, Event::Obtained(known));
            self.came(process, identity);
            self.ask(process);
        } else {
            self.signal(process, identity, Signal::Changed);
        }
    }

    /// The process has a token now: whoever waits goes on, and the token is used.
    fn came(&mut self, process: usize, identity: usize) {
        let (now, used) = (self.now, self.now + USED_AFTER);
        let Some(known) = self.kept[identity].filter(|_| self.is_active(identity)) else { return };
        if let Some(agent) = self.processes[process].agents.get_mut(&identity)
            && let Some(since) = agent.waits_since.take()
            && known.generation > Generation::new(1)
        {
            self.report.longest_wait = self.report.longest_wait.max(since.until(now));
        }
        let generation = known.generation;
        if !self.plan.used {
            return;
        }
        self.schedule(used, Occasion::Use { process, identity, generation });
    }

    /// As `Identities::patrol`.
    fn patrol(&mut self, process: usize) {
        for identity in self.plan.active..self.kept.len() {
            let soon = self.due[identity] <= self.now + PATROL;
            if soon && !self.processes[process].agents.contains_key(&identity) {
                self.hire(process, identity);
            }
        }
        self.schedule(self.now + PATROL, Occasion::Patrol { process });
    }

    fn keep(&mut self, identity: usize, known: Known) {
        self.kept[identity] = Some(known);
        let outline = Outline {
            generation: known.generation,
            issued_at: known.issued_at,
            expires_at: known.expires_at,
            has_refresh: known.refresh.is_some(),
            refresh_expires_at: known.refresh.flatten(),
        };
        if let Some(due) = keep_alive_due(&format!("identity-{identity}"), &outline) {
            self.due[identity] = due;
        }
    }
}
