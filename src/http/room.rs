//! Room: requests whose body is there and that have no answer yet, in all and of an application.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::application::Application;

/// How many requests may be under way.
///
/// An application that has less than its share under way is let in even where all are too many:
/// what others do cannot take that from it.
#[derive(Debug)]
pub struct Room {
    in_flight: AtomicUsize,
    max: usize,
}

/// A request that is under way, for as long as this lives.
#[derive(Debug)]
pub struct Place<'r> {
    room: &'r Room,
    application: &'r Application,
}

impl Room {
    /// Room for that many requests.
    pub fn new(max: usize) -> Self {
        Self { in_flight: AtomicUsize::new(0), max }
    }

    /// Takes a place for a request, if there is one; `applications` is how many share the room.
    pub fn enter<'r>(
        &'r self,
        application: &'r Application,
        applications: usize,
    ) -> Option<Place<'r>> {
        let own = application.in_flight.fetch_add(1, Ordering::Relaxed);
        let all = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place { room: self, application };
        let share = self.max.div_ceil(applications.max(1));
        let has_room = own < application.in_flight_max && (all < self.max || own < share);
        has_room.then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.room.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.application.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
