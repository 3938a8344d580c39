use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::mmio::{Interest, MmioDevice};

/// Descriptors that can be ready at once: a kick for each device, two for each port.
const READY_CAPACITY: usize = 32;

/// Serves all devices until `stop` is written; then closes what they hold.
///
/// # Errors
/// When the host can't wait for events.
pub(super) fn serve(devices: &[Arc<MmioDevice>], stop: &EventFd) -> Result<(), event_manager::Error> {
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new_with_capacity(READY_CAPACITY)?;
    let stopped = std::rc::Rc::new(std::cell::Cell::new(false));
    manager.add_subscriber(Box::new(Stop { fd: stop.as_raw_fd(), stopped: stopped.clone() }));
    for device in devices {
        manager.add_subscriber(Box::new(Serving { device: device.clone(), watched: BTreeMap::new() }));
    }
    while !stopped.get() {
        manager.run()?;
    }
    drop(manager);
    for device in devices {
        device.shut_down();
    }
    Ok(())
}

struct Stop {
    fd: RawFd,
    stopped: std::rc::Rc<std::cell::Cell<bool>>,
}

impl MutEventSubscriber for Stop {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.stopped.set(true);
    }

    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new_raw(self.fd, EventSet::IN)).expect("a new set takes an eventfd");
    }
}

struct Serving {
    device: Arc<MmioDevice>,
    watched: BTreeMap<RawFd, EventSet>,
}

impl Serving {
    /// Waits for what the device wants from now on, and lets it close what it wants no more.
    fn watch(&mut self, interests: &[Interest], ops: &mut EventOps) {
        let gone: Vec<RawFd> = self
            .watched
            .keys()
            .copied()
            .filter(|fd| interests.iter().all(|wanted| wanted.fd != *fd))
            .collect();
        for fd in gone {
            self.watched.remove(&fd);
            // It is open until `reap`, so that it is still in the set.
            let _closed = ops.remove(Events::empty_raw(fd));
        }
        for Interest { fd, events } in interests {
            let set = Events::new_raw(*fd, *events);
            match self.watched.get(fd) {
                Some(watched) if watched == events => {}
                Some(_) => {
                    self.watched.insert(*fd, *events);
                    let _same_fd = ops.modify(set);
                }
                None => match ops.add(set) {
                    Ok(()) => {
                        self.watched.insert(*fd, *events);
                    }
                    // EPERM: a plain file.
                    Err(_) => {
                        let _unknown = ops.remove(Events::empty_raw(*fd));
                        self.device.always_ready(*fd);
                        let _pending = self.device.kick().write(1);
                    }
                },
            }
        }
        self.device.reap(&|fd| self.watched.contains_key(&fd));
    }
}

impl MutEventSubscriber for Serving {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        let interests = if fd == self.device.kick().as_raw_fd() {
            // Emptied before the queues are looked at: what comes later kicks again.
            let _count = self.device.kick().read();
            self.device.serve()
        } else {
            self.device.host_ready(fd)
        };
        self.watch(&interests, ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let kick = Events::new(self.device.kick(), EventSet::IN);
        ops.add(kick).expect("a new set takes an eventfd");
    }
}
