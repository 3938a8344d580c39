use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::mmio::{Interest, MmioDevice};

/// Descriptors that can be ready at once: a kick for each device, two for each port.
const READY_CAPACITY: usize = 32;

/// The devices' event loop, made before its thread is locked in.
pub(super) struct EventLoop {
    manager: EventManager<Box<dyn MutEventSubscriber + Send>>,
    devices: Vec<Arc<MmioDevice>>,
    stopped: Arc<AtomicBool>,
}

impl EventLoop {
    /// A loop over these devices, until `stop` is written.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub(super) fn new(devices: &[Arc<MmioDevice>], stop: Arc<EventFd>) -> Result<Self, event_manager::Error> {
        let mut manager =
            EventManager::<Box<dyn MutEventSubscriber + Send>>::new_with_capacity(READY_CAPACITY)?;
        let stopped = Arc::new(AtomicBool::new(false));
        manager.add_subscriber(Box::new(Stop { fd: stop, stopped: stopped.clone() }));
        for device in devices {
            manager.add_subscriber(Box::new(Serving { device: device.clone(), watched: BTreeMap::new() }));
        }
        Ok(Self { manager, devices: devices.to_vec(), stopped })
    }

    /// Serves all devices until the loop is stopped; then closes what they hold.
    ///
    /// # Errors
    /// When the host can't wait for events.
    pub(super) fn serve(mut self) -> Result<(), event_manager::Error> {
        while !self.stopped.load(Ordering::SeqCst) {
            self.manager.run()?;
        }
        drop(self.manager);
        for device in &self.devices {
            device.shut_down();
        }
        Ok(())
    }
}

struct Stop {
    fd: Arc<EventFd>,
    stopped: Arc<AtomicBool>,
}

impl MutEventSubscriber for Stop {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(&*self.fd, EventSet::IN)).expect("a new set takes an eventfd");
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
