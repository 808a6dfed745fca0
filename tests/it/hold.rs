//! Records that are held back under load: which, for how long, in which order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use clickpesa_relay::kafka::hold::Hold;

use crate::harness::{Setup, payment, signed};

const WAIT: Duration = Duration::from_secs(10);

/// Numbers go through it to the other end; busy as long as the flag says.
fn hold(is_busy: bool) -> (Hold<u32>, Arc<AtomicBool>, Receiver<u32>) {
    let flag = Arc::new(AtomicBool::new(is_busy));
    let asked = Arc::clone(&flag);
    let (let_go, gone) = mpsc::channel();
    let is_busy = move || asked.load(Ordering::SeqCst);
    (Hold::start(is_busy, move |item| let_go.send(item).unwrap()), flag, gone)
}

#[test]
fn nothing_is_held_where_nothing_is_under_way() {
    let (hold, _, gone) = hold(false);
    assert_eq!((1..=100).filter_map(|number| hold.take(number)).sum::<u32>(), 5050);
    drop(hold);
    assert_eq!(gone.recv_timeout(WAIT).ok(), None, "nothing was left behind");
}

#[test]
fn what_is_held_goes_in_order_and_nothing_overtakes_it() {
    let (hold, is_busy, gone) = hold(true);
    let mut sent = Vec::new();
    for number in 0..10_000 {
        if let Some(now) = hold.take(number) {
            sent.extend(gone.try_iter());
            sent.push(now);
        }
        is_busy.store(number % 3 == 0, Ordering::SeqCst);
        std::thread::yield_now();
    }
    drop(hold);
    sent.extend(gone.iter());
    assert!(sent.iter().copied().eq(0..10_000), "{sent:?}");
}

#[test]
fn nothing_is_held_for_long_however_busy_it_is() {
    let (hold, _, gone) = hold(true);
    for number in 0..20 {
        assert_eq!(hold.take(number), None);
        assert_eq!(gone.recv_timeout(WAIT), Ok(number));
    }
}

#[test]
fn what_is_held_at_the_end_goes_too() {
    let (hold, _, gone) = hold(true);
    assert!((0..5).all(|number| hold.take(number).is_none()));
    drop(hold);
    assert_eq!(gone.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

/// Posts from some senders at once; gives how many records were held.
fn held(above: &str, senders: usize) -> f64 {
    let app = Setup::new().set("delivery.hold_above", above).spawn();
    std::thread::scope(|scope| {
        for sender in 0..senders {
            let app = &app;
            scope.spawn(move || {
                for number in 0..20 {
                    let events =
                        app.post(signed(&payment(&format!("R-{sender}-{number}")))).events();
                    assert_eq!(events.len(), 1);
                }
            });
        }
    });
    assert_eq!(app.records("payment.received").len(), senders * 20);
    app.samples().sum("kafka_records_held_total", &[])
}

#[test]
fn a_lone_sender_never_waits() {
    assert!(held("20", 1).abs() < 0.5);
}

#[test]
fn under_load_some_are_held_unless_that_is_off() {
    assert!(held("1", 8) > 0.5);
    assert!(held("0", 8).abs() < 0.5);
}
