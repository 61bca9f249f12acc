//! What each step does. It follows `src/token/keeper/renewal.rs` and `driver.rs`; what those do
//! between two waits is one step here.

use crate::world::{GHOST, Mutation, Pair, Replica, Set, Stage, Wire, World};

impl World {
    /// A request that has been sent, and whose set is not in the store.
    pub(crate) fn pending(&self) -> u8 {
        let open = |r: &&Replica| {
            matches!(r.stage, Stage::Asked(..) | Stage::Answered(..)) || r.unsaved.is_some()
        };
        u8::try_from(self.replicas.iter().filter(open).count()).expect("few")
    }

    /// Whether somebody still has a token that the server takes.
    pub(crate) fn is_recoverable(&self) -> bool {
        let stored = [Some(self.store.set.pair), self.store.set.previous];
        let known = self.replicas.iter().flat_map(|replica| {
            let answer = match replica.stage {
                Stage::Asked(_, _, Wire::Granted(pair)) | Stage::Answered(_, pair, _) => Some(pair),
                _ => None,
            };
            let unsaved = replica.unsaved.map(|(pair, _)| pair);
            let previous = replica.known.and_then(|known| known.previous);
            [replica.known.map(|known| known.pair), previous, unsaved, answer]
        });
        stored.into_iter().chain(known).flatten().any(|pair| self.server.accepts(pair))
    }

    /// The process goes on by one step of its own; false if there is none.
    pub(crate) fn step(&mut self, id: usize, mutation: Mutation) -> bool {
        let stage = self.replicas[id].stage;
        let needs_store = matches!(
            stage,
            Stage::Starting
                | Stage::Due
                | Stage::Leased
                | Stage::Looked(_)
                | Stage::Answered(..)
                | Stage::Refused
        );
        if needs_store && !self.store.up {
            return self.store_failed(id, mutation);
        }
        match stage {
            Stage::Starting => {
                let there = self.store.set;
                let Self { replicas, tally, .. } = self;
                replicas[id].adopt(there, tally);
            }
            Stage::Due => return self.lease(id, mutation),
            Stage::Leased => self.look(id, mutation),
            Stage::Looked(expected) => self.replicas[id].stage = Stage::Probed(expected),
            Stage::Probed(expected) => {
                let blind = matches!(mutation, Mutation::NoLease | Mutation::NoLookAtLease);
                let live = blind || self.store.lease == Some(id);
                self.replicas[id].stage = if live { Stage::Live(expected) } else { Stage::Due };
            }
            Stage::Live(expected) => self.ask(id, expected),
            Stage::Answered(expected, pair, previous) => {
                self.save(id, expected, pair, previous, mutation);
            }
            Stage::Refused => self.look_once_more(id),
            Stage::Dead | Stage::Resting | Stage::Asked(..) | Stage::Lost => return false,
        }
        true
    }

    fn store_failed(&mut self, id: usize, mutation: Mutation) -> bool {
        let stage = self.replicas[id].stage;
        match stage {
            Stage::Answered(_, pair, previous) => {
                if mutation != Mutation::ForgetUnsaved {
                    self.replicas[id].unsaved = Some((pair, previous));
                }
                if mutation == Mutation::FreeUnsaved {
                    self.release(id);
                }
            }
            Stage::Leased | Stage::Looked(_) if self.replicas[id].unsaved.is_none() => {
                self.release(id);
            }
            Stage::Leased => {}
            // It waits until the store is back.
            _ => return false,
        }
        self.replicas[id].stage = Stage::Due;
        true
    }

    fn lease(&mut self, id: usize, mutation: Mutation) -> bool {
        if mutation != Mutation::NoLease {
            // A set that could not be stored keeps its lease.
            if self.store.lease.is_some_and(|holder| holder != id) {
                return false;
            }
            self.store.lease = Some(id);
        }
        self.replicas[id].stage = Stage::Leased;
        true
    }

    /// Gives the lease back, if it is still ours, and tries again later.
    fn give_up(&mut self, id: usize) {
        self.release(id);
        self.replicas[id].stage = Stage::Due;
    }

    fn release(&mut self, id: usize) {
        self.store.lease = self.store.lease.filter(|holder| *holder != id);
    }

    fn look(&mut self, id: usize, mutation: Mutation) {
        let there = self.store.set;
        let replica = &mut self.replicas[id];
        replica.floor = replica.floor.max(there.generation);
        if replica.is_newer(there) && mutation != Mutation::NoSecondLook {
            self.tally.seen.adopted = true;
            replica.adopt(there, &mut self.tally);
            return self.release(id);
        }
        replica.stage = match replica.unsaved.take() {
            Some((pair, previous)) => {
                self.tally.seen.outlived = true;
                Stage::Answered(there.generation, pair, previous)
            }
            None => Stage::Looked(there.generation),
        };
    }

    fn ask(&mut self, id: usize, expected: u8) {
        let replica = &mut self.replicas[id];
        let pair = replica.source().expect("a process without a source is lost");
        replica.stage = Stage::Asked(expected, pair, Wire::Travelling);
        self.tally.sent += 1;
    }

    /// The request arrives.
    pub(crate) fn serve(&mut self, id: usize) -> bool {
        let Stage::Asked(expected, pair, Wire::Travelling) = self.replicas[id].stage else {
            return false;
        };
        self.note_repetition(pair);
        let wire = self.server.answer(pair);
        self.replicas[id].stage = Stage::Asked(expected, pair, wire);
        true
    }

    /// The request that nobody waits for any more arrives.
    pub(crate) fn serve_orphan(&mut self) -> bool {
        let Some(pair) = self.orphan.take() else { return false };
        self.note_repetition(pair);
        self.server.answer(pair);
        true
    }

    fn note_repetition(&mut self, pair: Pair) {
        self.tally.seen.repeated |= pair != self.server.current && self.server.accepts(pair);
    }

    /// The answer arrives.
    pub(crate) fn deliver(&mut self, id: usize, mutation: Mutation) -> bool {
        let Stage::Asked(expected, asked, wire) = self.replicas[id].stage else { return false };
        match wire {
            Wire::Travelling => return false,
            Wire::Granted(pair) => {
                let replica = &mut self.replicas[id];
                replica.stage = Stage::Answered(expected, pair, Some(asked));
                if mutation == Mutation::PublishBeforeStore {
                    (replica.published, replica.accepted) = (Some(pair), false);
                }
            }
            Wire::Refused => {
                self.release(id);
                self.replicas[id].stage = Stage::Refused;
            }
        }
        true
    }

    /// The answer is lost, or the request hangs until nobody waits for it.
    pub(crate) fn lose_answer(&mut self, id: usize) -> bool {
        let Stage::Asked(_, pair, wire) = self.replicas[id].stage else { return false };
        if wire == Wire::Travelling {
            self.orphan = Some(pair);
        }
        self.left.lost_answers -= 1;
        self.give_up(id);
        true
    }

    fn save(
        &mut self,
        id: usize,
        expected: u8,
        pair: Pair,
        previous: Option<Pair>,
        mutation: Mutation,
    ) {
        let there = self.store.set;
        let fits = there.generation == expected;
        if !fits && mutation != Mutation::NoCompareAndSet {
            self.tally.seen.late_write = true;
            let replica = &mut self.replicas[id];
            if replica.is_newer(there) {
                replica.adopt(there, &mut self.tally);
                return self.release(id);
            }
            return self.give_up(id);
        }
        self.tally.doubled |= !fits;
        self.tally.saved += 1;
        self.tally.seen.taken_over |= self.orphan.is_some() || self.is_held_by_another(id);
        let set = Set { generation: self.replicas[id].floor + 1, pair, previous };
        (self.store.stale, self.store.set) = (there, set);
        self.replicas[id].adopt(set, &mut self.tally);
        self.release(id);
    }

    fn is_held_by_another(&self, id: usize) -> bool {
        let in_the_middle = |r: &Replica| matches!(r.stage, Stage::Asked(..) | Stage::Answered(..));
        self.replicas.iter().enumerate().any(|(other, r)| other != id && in_the_middle(r))
    }

    /// What the server refused, somebody else may have used: the store is read once more.
    fn look_once_more(&mut self, id: usize) {
        let there = self.store.set;
        let Self { replicas, tally, .. } = self;
        let replica = &mut replicas[id];
        if replica.is_newer(there) {
            return replica.adopt(there, tally);
        }
        if replica.spent {
            replica.spent_previous = true;
        } else {
            replica.spent = true;
        }
        replica.stage = if replica.source().is_some() { Stage::Due } else { Stage::Lost };
    }

    /// The store has changed, and the process looks: it adopts what is newer, and puts back what
    /// the store has lost.
    pub(crate) fn hear(&mut self, id: usize, mutation: Mutation) -> bool {
        let replica = &mut self.replicas[id];
        let listens = matches!(replica.stage, Stage::Resting | Stage::Due | Stage::Lost);
        let Some(known) = replica.known.filter(|_| listens && self.store.up) else { return false };
        let there = self.store.set;
        if there.generation > known.generation {
            self.tally.seen.adopted = true;
            replica.adopt(there, &mut self.tally);
            return true;
        }
        let lost = known.generation > there.generation && self.store.lease.is_none();
        if lost && mutation != Mutation::NoPutBack {
            self.tally.seen.put_back = true;
            (self.store.stale, self.store.set) = (there, known);
            return true;
        }
        false
    }

    /// A request is sent with the published token.
    pub(crate) fn call(&mut self, id: usize) -> bool {
        let replica = &mut self.replicas[id];
        let Some(pair) = replica.published.filter(|_| !replica.accepted) else { return false };
        if pair == self.server.current && !self.server.ended {
            self.server.used = true;
            replica.accepted = true;
        } else {
            replica.published = None;
            if replica.stage == Stage::Resting {
                replica.stage = Stage::Due;
            }
        }
        true
    }

    pub(crate) fn crash(&mut self, id: usize) {
        if let Stage::Asked(_, pair, Wire::Travelling) = self.replicas[id].stage {
            self.orphan = Some(pair);
        }
        if self.store.lease == Some(id) {
            self.store.lease = Some(GHOST);
        }
        self.replicas[id] = Replica { stage: Stage::Dead, ..Replica::new() };
        self.left.crashes -= 1;
    }

    pub(crate) fn fail_over(&mut self) {
        self.store.set = self.store.stale;
        self.store.lease = None;
        self.left.failovers -= 1;
    }
}
