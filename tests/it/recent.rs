//! The window of acknowledged webhooks: what is called a duplicate, and who has to try.

use std::sync::Arc;

use clickpesa_relay::{
    delivery::{
        Published, Spooled,
        recent::{Claim, Digest, Recent, Seen},
    },
    event::id::Id,
    kafka::report::Receipt,
};
use tokio::time::{Duration, timeout};

const WAIT: Duration = Duration::from_secs(5);

fn digest(number: u8) -> Digest {
    [number; 32]
}

fn published(offset: i64) -> Arc<[Published]> {
    let event = Spooled { id: Id::of([7; 32]), ce_type: "type", topic: "topic".into() };
    [Published { event, receipt: Receipt { partition: 0, offset } }].into()
}

fn claim(recent: &Recent, digest: Digest) -> Claim<'_> {
    let Seen::First(claim) = recent.enter(digest) else { panic!("not the first") };
    claim
}

#[tokio::test(flavor = "current_thread")]
async fn a_repeat_gets_what_the_first_got() {
    let recent = Recent::new(10);
    claim(&recent, digest(1)).acknowledge(&published(7));
    let Seen::Acknowledged(first) = recent.enter(digest(1)) else { panic!("not known") };
    assert_eq!(first, published(7));
    drop(claim(&recent, digest(2)));
}

#[tokio::test(flavor = "current_thread")]
async fn every_twin_gets_what_the_first_gets() {
    let recent = Recent::new(10);
    let first = claim(&recent, digest(1));
    let twins = [(); 3].map(|()| {
        let Seen::UnderWay(twin) = recent.enter(digest(1)) else { panic!("not under way") };
        twin
    });
    first.acknowledge(&published(3));
    for twin in twins {
        assert_eq!(timeout(WAIT, twin.wait()).await.unwrap(), Some(published(3)));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_failed_first_lets_one_twin_try() {
    let recent = Recent::new(10);
    let first = claim(&recent, digest(1));
    let Seen::UnderWay(twin) = recent.enter(digest(1)) else { panic!("not under way") };
    drop(first);
    assert_eq!(timeout(WAIT, twin.wait()).await.unwrap(), None);
    let second = claim(&recent, digest(1));
    assert!(matches!(recent.enter(digest(1)), Seen::UnderWay(_)), "one tries, the others wait");
    second.acknowledge(&published(4));
    assert!(matches!(recent.enter(digest(1)), Seen::Acknowledged(_)));
}

#[test]
fn the_window_forgets_the_oldest() {
    let recent = Recent::new(2);
    for number in 0..3 {
        claim(&recent, digest(number)).acknowledge(&published(0));
    }
    drop(claim(&recent, digest(0)));
    assert!(matches!(recent.enter(digest(1)), Seen::Acknowledged(_)));
    assert!(matches!(recent.enter(digest(2)), Seen::Acknowledged(_)));
}

#[test]
fn a_window_of_nothing_knows_nothing() {
    let recent = Recent::new(0);
    claim(&recent, digest(1)).acknowledge(&published(0));
    drop(claim(&recent, digest(1)));
}
