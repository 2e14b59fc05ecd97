//! Which targets share a group, and what becomes of their leases when one moves.

use super::*;

fn is_one_group(one: &Target, other: &Target) -> bool {
    Arc::ptr_eq(&one.group().expect("it is placed"), &other.group().expect("it is placed"))
}

impl World {
    /// A wildcard listener, and a target with a lease at each of two addresses without listeners of their own.
    fn two_of_a_wildcard(&mut self) -> [Arc<Target>; 2] {
        self.kernel.open(NETNS, "0.0.0.0:80");
        let targets = ["10.0.0.1:80", "10.0.0.2:80"].map(|addr| self.target(NETNS, addr));
        self.sweep();
        self.sweep();
        for target in &targets {
            assert_eq!(self.lease(target), Ok(()));
        }
        targets
    }
}

#[test]
fn a_listener_of_an_own_address_takes_its_targets_out_of_their_group_and_puts_them_back() {
    let mut world = World::new();
    let [aside, target] = world.two_of_a_wildcard();
    assert!(is_one_group(&aside, &target));
    let socket = world.kernel.open(NETNS, "10.0.0.2:80");
    assert_eq!(world.held(&target, world.value(&target) - 1), Err(Why::Changed));
    world.pump();
    // Not before the look that settles them.
    assert!(is_one_group(&aside, &target) && !world.is_settled(&target));
    world.looks(Duration::from_millis(5));
    assert!(!is_one_group(&aside, &target));
    for target in [&aside, &target] {
        assert_eq!(world.lease(target), Ok(()));
    }
    world.kernel.close(socket);
    world.pump();
    world.looks(Duration::from_millis(5));
    assert!(is_one_group(&aside, &target));
    assert_eq!(world.lease(&target), Ok(()));
    assert_eq!(world.watch.groups.len(), 1);
    assert_eq!(world.stats.voids.load(Relaxed), 0, "the counter had ended those leases");
}

#[cfg(not(any(feature = "bite-queue", feature = "bite-candidates")))]
#[test]
fn a_full_queue_of_an_own_address_concerns_its_targets_alone_and_that_of_the_wildcard_all() {
    let mut world = World::new();
    let wildcard = world.kernel.open(NETNS, "0.0.0.0:80");
    let own = world.kernel.open(NETNS, "10.0.0.2:80");
    let [aside, target] = ["10.0.0.1:80", "10.0.0.2:80"].map(|addr| world.target(NETNS, addr));
    world.sweep();
    world.kernel.queue(own, 6);
    world.sweep();
    assert_eq!((aside.look_found(), target.look_found()), (None, Some(Why::AcceptQueueFull)));
    assert_eq!(world.notices(), ["full 10.0.0.2:80 6/5"]);
    world.kernel.queue(own, 0);
    world.kernel.queue(wildcard, 6);
    world.sweep();
    assert_eq!((aside.look_found(), target.look_found()), (Some(Why::AcceptQueueFull), Some(Why::AcceptQueueFull)));
    assert_eq!(world.stats.accept_queues_full.load(Relaxed), 2);
    // One more is told at once; the gauge follows those that go.
    let third = world.target(NETNS, "10.0.0.3:80");
    world.answer();
    assert_eq!(world.stats.accept_queues_full.load(Relaxed), 3);
    // Of the second target it is told still.
    assert_eq!(world.notices(), ["full 0.0.0.0:80 6/5"; 2]);
    drop((aside, third));
    world.sweep();
    assert_eq!(world.stats.accept_queues_full.load(Relaxed), 1);
}

#[test]
fn a_listener_of_an_own_address_that_no_event_announced_ends_the_leases_of_that_address_alone() {
    let mut world = World::new();
    let [aside, target] = world.two_of_a_wildcard();
    world.kernel.is_blind = true;
    world.kernel.open(NETNS, "10.0.0.2:80");
    world.sweep();
    assert_eq!(world.held(&aside, world.value(&aside)), Ok(()));
    assert_eq!(world.held(&target, world.value(&target)), Err(Why::Changed));
    assert_eq!((world.stats.unannounced.load(Relaxed), world.stats.voids.load(Relaxed)), (1, 1));
    assert!(!is_one_group(&aside, &target));
    assert_eq!(world.lease(&target), Ok(()));
}

#[test]
fn a_lease_does_not_outlive_the_move_of_its_target() {
    let mut world = World::new();
    let [_aside, target] = world.two_of_a_wildcard();
    let old = target.group().expect("it is placed");
    let before = target.before(&world.counters).expect("it is placed");
    world.kernel.is_blind = true;
    let socket = world.kernel.open(NETNS, "10.0.0.2:80");
    world.sweep();
    // Of the group that was left the look still holds, and the counter is the same.
    assert_eq!((old.look(world.now), old.is_settled(before.value())), (Ok(()), true));
    let until = world.now + Duration::from_secs(60);
    assert_eq!(target.grant(&world.counters, before, until, world.now).map(|_| ()), Err(Why::Changed));
    assert_eq!(target.held(&world.counters, &old, before.value(), world.now), Err(Why::Changed));
    // And the same on the way back, when it is gone from two dumps.
    assert_eq!(world.lease(&target), Ok(()));
    world.kernel.close(socket);
    world.sweep();
    world.sweep();
    assert_eq!(world.held(&target, world.value(&target)), Err(Why::Changed));
    assert!(Arc::ptr_eq(&old, &target.group().expect("it is placed")));
}

#[test]
fn whoever_joins_a_group_of_which_all_is_known_rests_on_it_at_once() {
    let mut world = World::new();
    let [aside, _target] = world.two_of_a_wildcard();
    let timeout = world.watch.poll_timeout();
    let third = world.target(NETNS, "10.0.0.3:80");
    world.answer();
    assert!(is_one_group(&aside, &third));
    assert_eq!(world.watch.poll_timeout(), timeout, "no other look is wanted");
    assert_eq!(world.lease(&third), Ok(()));
    // Not where a listener opens that nobody has looked at.
    world.kernel.listen(NETNS, "10.0.0.4:80");
    let fourth = world.target(NETNS, "10.0.0.4:80");
    world.answer();
    assert_eq!(world.lease(&fourth), Err(Why::Tentative));
}

#[test]
fn a_target_that_comes_between_two_looks_does_not_keep_others_out_of_their_group() {
    let mut world = World::new();
    let [aside, target] = world.two_of_a_wildcard();
    let socket = world.kernel.open(NETNS, "10.0.0.2:80");
    world.pump();
    // The first of a group that those of its address join at the next look.
    let second = world.target(NETNS, "10.0.0.2:80");
    world.answer();
    assert!(!is_one_group(&second, &target) && !world.is_settled(&second));
    world.looks(Duration::from_millis(5));
    assert!(is_one_group(&second, &target) && !is_one_group(&aside, &target));
    // The other way round: it comes while the listener is away, and is back before the next look.
    world.kernel.close(socket);
    world.pump();
    let third = world.target(NETNS, "10.0.0.2:80");
    world.answer();
    assert!(is_one_group(&third, &aside) && !world.is_settled(&third));
    world.kernel.begin_listen(socket);
    world.kernel.end_listen(socket, true);
    world.pump();
    world.looks(Duration::from_millis(5));
    for other in [&second, &third] {
        assert!(is_one_group(&target, other));
        assert_eq!(world.lease(other), Ok(()));
    }
}

#[test]
fn a_target_that_nobody_holds_any_more_does_not_keep_others_out_of_their_group() {
    let mut world = World::new();
    let [aside, gone] = world.two_of_a_wildcard();
    let socket = world.kernel.open(NETNS, "10.0.0.2:80");
    world.sweep();
    assert!(!is_one_group(&aside, &gone));
    drop(gone);
    let target = world.target(NETNS, "10.0.0.2:80");
    world.answer();
    world.kernel.close(socket);
    world.pump();
    world.looks(Duration::from_millis(5));
    assert!(is_one_group(&aside, &target));
    assert_eq!(world.watch.groups.len(), 1);
    world.kernel.begin_listen(socket);
    world.kernel.end_listen(socket, true);
    world.pump();
    world.looks(Duration::from_millis(5));
    assert!(!is_one_group(&aside, &target));
    assert_eq!(world.lease(&target), Ok(()));
}

#[test]
fn targets_of_both_families_and_of_no_address_have_groups_of_their_own() {
    let mut world = World::new();
    world.kernel.open(NETNS, "0.0.0.0:80");
    world.kernel.open(NETNS, "10.0.0.9:80");
    let targets = ["10.0.0.1:80", "[fd00::1]:80", "0.0.0.0:80", "[::ffff:10.0.0.2]:80"];
    let [v4, v6, any, mapped] = targets.map(|addr| world.target(NETNS, addr));
    world.sweep();
    world.sweep();
    assert!(is_one_group(&v4, &mapped));
    assert_eq!((v4.look_found(), v6.look_found(), any.look_found()), (None, Some(Why::NoListener), None));
    assert_eq!(world.watch.groups.len(), 3);
}

#[test]
fn a_healthy_sweep_visits_groups_and_no_targets() {
    let mut world = World::new();
    world.kernel.open(NETNS, "0.0.0.0:80");
    let addr = |index: u32| format!("10.0.{}.{}:80", index / 250, index % 250 + 1);
    let targets: Vec<_> = (0..10_000).map(|index| world.target(NETNS, &addr(index))).collect();
    world.sweep();
    world.sweep();
    assert_eq!(world.watch.groups.len(), 1);
    let group = targets[0].group().expect("it is placed");
    assert!(targets.iter().all(|target| Arc::ptr_eq(&group, &target.group().expect("it is placed"))));
    for target in &targets {
        assert_eq!(world.lease(target), Ok(()));
    }
    // As many as are visited to see whether anybody holds them.
    let (epochs, now) = (targets.iter().map(|target| target.epoch()).sum::<u32>(), world.now);
    world.sweep();
    assert_eq!(targets.iter().map(|target| target.epoch()).sum::<u32>(), epochs);
    assert_eq!(group.look(now + limits::LOOK_AGE_MAX), Ok(()));
    // One that its shard has let go of goes at once, others that nobody holds in the course of some sweeps.
    world.watch.forget(&targets[0]);
    assert_eq!((world.watch.targets_len(), world.watch.groups.len()), (9_999, 1));
    world.watch.forget(&targets[0]);
    assert_eq!(world.watch.targets_len(), 9_999);
    drop(targets);
    for _ in 0..10_000_usize.div_ceil(limits::TARGETS_VISITED_MIN) + 2 {
        world.sweep();
    }
    assert_eq!((world.watch.targets_len(), world.watch.groups.len(), world.watch.namespaces.len()), (0, 0, 0));
}
