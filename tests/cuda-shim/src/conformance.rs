//! What every implementation of [`Driver`] must do, as one routine for all of them.
//!
//! It runs on the shim in each of its ways, on NVIDIA's library where there is a card, and on a
//! stand-in for that library where there is none.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use v4_cuda::args::{Add, Args};
use v4_cuda::driver::{Driver, DriverError, EventUse, Extent};
use v4_cuda::kernels::Kernels;
use v4_cuda::owned::{DeviceBuffer, Event, PinnedBuffer, Registration, Stream};

/// Values of most buffers here: some blocks, and a tail.
const LEN: usize = 1000;

struct Trial<D: Driver> {
    kernels: Kernels<D>,
    stream: Stream<D>,
    driver: Arc<D>,
}

/// Checks a card. It panics with what is wrong.
///
/// # Errors
/// If a call fails that should not.
pub fn check<D: Driver>(driver: &Arc<D>) -> Result<(), DriverError> {
    let trial = Trial {
        kernels: Kernels::load(driver)?,
        stream: Stream::new(driver)?,
        driver: Arc::clone(driver),
    };
    trial.describes_itself()?;
    trial.copies()?;
    trial.launches_of_all_extents()?;
    trial.waits_between_streams()?;
    trial.times()?;
    trial.graphs()?;
    trial.pinned_memory()?;
    trial.registered_memory()?;
    trial.waits_for_a_value()?;
    trial.errors_that_leave_it_working()?;
    trial.threads()?;
    driver.synchronize()
}

impl<D: Driver> Trial<D> {
    fn describes_itself(&self) -> Result<(), DriverError> {
        let card = self.driver.card();
        assert!(!card.name.is_empty() && !card.pci.is_empty());
        assert!(card.capability >= (8, 0) && card.cuda >= (12, 0));
        assert!(card.multiprocessors > 0 && card.shared_bytes >= v4_cuda::driver::MOST_SHARED);
        let memory = self.driver.memory()?;
        assert!(memory.free > 0 && memory.free <= memory.total);
        let buffer = DeviceBuffer::new(&self.driver, 8 << 20)?;
        assert_eq!(buffer.start().0 % 256, 0, "aligned as cards align");
        Ok(())
    }

    fn copies(&self) -> Result<(), DriverError> {
        let stream = &self.stream;
        for bytes in [1, 3, 255, 4096, 70_001] {
            let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
            let buffer = DeviceBuffer::new(&self.driver, bytes)?;
            let copy = DeviceBuffer::new(&self.driver, bytes)?;
            buffer.write(stream, 0, &sent)?;
            copy.copy_from(stream, 0, &buffer, 0..bytes)?;
            let mut got = vec![0; bytes];
            copy.read(stream, 0, &mut got)?;
            assert!(got == sent, "{bytes} bytes there, across and back");
            copy.fill(stream, bytes / 3..bytes, 0x5a)?;
            copy.read(stream, 0, &mut got)?;
            let mut expected = sent;
            expected[bytes / 3..].fill(0x5a);
            assert!(got == expected, "{bytes} bytes filled from a third on");
        }
        Ok(())
    }

    fn launches_of_all_extents(&self) -> Result<(), DriverError> {
        for (threads, shared) in [(32, 0), (256, 1024), (1024, v4_cuda::driver::MOST_SHARED)] {
            let (y, x) = (self.put(1.5)?, self.put(0.25)?);
            let blocks = (LEN as u32).div_ceil(threads);
            let extent = Extent::row(blocks, threads).with_shared(shared);
            let args = add(&y, &x);
            // SAFETY: both buffers have as many values, and are read below.
            unsafe { self.kernels.rows.add.launch(&self.stream, extent, &args)? };
            self.expect(&y, 1.75)?;
        }
        Ok(())
    }

    fn waits_between_streams(&self) -> Result<(), DriverError> {
        let other = Stream::new(&self.driver)?;
        let event = Event::new(&self.driver, EventUse::default())?;
        assert!(event.is_reached()?, "an event that was never recorded");
        other.wait(&event)?;
        let (y, x, z) = (self.put(1.0)?, self.put(1.0)?, self.put(0.0)?);
        for _ in 0..8 {
            self.add(&self.stream, &y, &x)?;
            event.record(&self.stream)?;
            other.wait(&event)?;
            self.add(&other, &z, &y)?;
            event.record(&other)?;
            self.stream.wait(&event)?;
        }
        event.synchronize()?;
        assert!(event.is_reached()?);
        self.expect(&y, 9.0)?;
        self.expect(&z, 44.0)?;
        self.driver.synchronize()?;
        assert!(other.is_idle()? && self.stream.is_idle()?);
        Ok(())
    }

    fn times(&self) -> Result<(), DriverError> {
        let usage = EventUse {
            timing: true,
            sleeps: true,
        };
        let (start, end) = (
            Event::new(&self.driver, usage)?,
            Event::new(&self.driver, usage)?,
        );
        let (y, x) = (self.put(0.0)?, self.put(1.0)?);
        start.record(&self.stream)?;
        self.add(&self.stream, &y, &x)?;
        end.record(&self.stream)?;
        end.synchronize()?;
        let took = end.since(&start)?;
        assert!((0.0..10_000.0).contains(&took), "{took} ms");
        Ok(())
    }

    fn graphs(&self) -> Result<(), DriverError> {
        let other = Stream::new(&self.driver)?;
        let forked = Event::new(&self.driver, EventUse::default())?;
        let joined = Event::new(&self.driver, EventUse::default())?;
        let (x, y, z) = (self.put(1.0)?, self.put(10.0)?, self.put(100.0)?);
        let pinned = PinnedBuffer::new(&self.driver, 4)?;
        let graph = self.stream.capture(|| {
            forked.record(&self.stream)?;
            other.wait(&forked)?;
            self.add(&self.stream, &y, &x)?;
            self.add(&other, &z, &x)?;
            joined.record(&other)?;
            self.stream.wait(&joined)?;
            self.add(&self.stream, &y, &z)?;
            y.read_into(&self.stream, 0, &pinned, 0..4)
        })?;
        self.expect(&y, 10.0)?;
        for expected in [112.0f32, 215.0, 319.0] {
            // SAFETY: all buffers are there until the stream has been waited for.
            unsafe { graph.launch(&self.stream)? };
            self.stream.synchronize()?;
            let word = pinned.words()[0].load(Ordering::Acquire);
            assert_eq!(word, expected.to_bits());
        }
        self.expect(&z, 103.0)?;
        // What cannot be captured is refused, and the stream works afterwards.
        let spoilt = self.stream.capture(|| self.driver.allocate(256).map(drop));
        assert!(spoilt.is_err(), "an allocation was captured");
        let spoilt = self.stream.capture(|| self.stream.synchronize());
        assert!(spoilt.is_err(), "a wait was captured");
        self.add(&self.stream, &x, &x)?;
        self.expect(&x, 2.0)
    }

    fn pinned_memory(&self) -> Result<(), DriverError> {
        let (y, x) = (self.put(2.0)?, PinnedBuffer::new(&self.driver, 4 * LEN)?);
        for word in x.words() {
            word.store(3.0f32.to_bits(), Ordering::Relaxed);
        }
        // Copied, and read by a kernel where it lies.
        let copy = DeviceBuffer::new(&self.driver, 4 * LEN)?;
        copy.write_from(&self.stream, 0, &x, 0..4 * LEN)?;
        self.expect(&copy, 3.0)?;
        let args = Add {
            y: y.start().0,
            x: x.device().0,
            count: LEN as u64,
        };
        let extent = Extent::row(4, 256);
        // SAFETY: both buffers have as many values, and are read below.
        unsafe { self.kernels.rows.add.launch(&self.stream, extent, &args)? };
        self.expect(&y, 5.0)?;
        // Written by a kernel, and polled.
        let args = Add {
            y: x.device().0,
            x: y.start().0,
            count: LEN as u64,
        };
        // SAFETY: as above.
        unsafe { self.kernels.rows.add.launch(&self.stream, extent, &args)? };
        while x.words()[LEN - 1].load(Ordering::Acquire) == 3.0f32.to_bits() {
            self.driver.pause()?;
        }
        self.stream.synchronize()?;
        let all = x.words().iter();
        assert!(
            all.into_iter()
                .all(|word| word.load(Ordering::Relaxed) == 8.0f32.to_bits())
        );
        Ok(())
    }

    fn registered_memory(&self) -> Result<(), DriverError> {
        if !self.driver.card().can_register {
            return Ok(());
        }
        let mut memory = vec![1.25f32; 1 << 16];
        let start = NonNull::from_mut(&mut memory[..]).cast::<u8>();
        // SAFETY: the memory outlives the registration, and is not touched in between.
        let registered = unsafe { Registration::new(&self.driver, start, 1 << 18)? };
        let y = self.put(1.0)?;
        let args = Add {
            y: y.start().0,
            x: registered.device().0,
            count: LEN as u64,
        };
        // SAFETY: both have as many values at least, and `y` is read below.
        unsafe {
            let extent = Extent::row(4, 256);
            self.kernels.rows.add.launch(&self.stream, extent, &args)?;
        }
        self.expect(&y, 2.25)?;
        // SAFETY: it is refused.
        let again = unsafe { Registration::new(&self.driver, start, 1 << 18) };
        assert!(again.is_err(), "memory was registered twice");
        self.driver.clear_error()?;
        drop(registered);
        assert_eq!(memory[0], 1.25);
        Ok(())
    }

    fn waits_for_a_value(&self) -> Result<(), DriverError> {
        let flag = PinnedBuffer::new(&self.driver, 4)?;
        let other = Stream::new(&self.driver)?;
        let (y, x) = (self.put(1.0)?, self.put(1.0)?);
        // SAFETY: the word is there until the stream has been waited for.
        let asked = unsafe { self.driver.stream_wait_value(other.id(), flag.device(), 2) };
        if !self.driver.card().can_wait_value {
            assert!(asked.is_err(), "a wait that is not supported");
            return self.driver.clear_error();
        }
        asked?;
        self.add(&other, &y, &x)?;
        flag.words()[0].store(1, Ordering::Release);
        assert!(!other.is_idle()?, "the value is not there yet");
        flag.words()[0].store(2, Ordering::Release);
        other.synchronize()?;
        self.expect(&y, 2.0)
    }

    fn errors_that_leave_it_working(&self) -> Result<(), DriverError> {
        let too_much = DeviceBuffer::new(&self.driver, 1 << 50).unwrap_err();
        assert!(too_much.is_out_of_memory(), "{too_much}");
        self.driver.clear_error()?;
        let (y, x) = (self.put(1.0)?, self.put(1.0)?);
        let bytes = add(&y, &x).bytes();
        let module = self.driver.load("rows", v4_cuda::kernels::IMAGES)?;
        let known = v4_cuda::kernels::KNOWN.iter();
        let known = known
            .map(|known| known.signature)
            .find(|signature| signature.name == "add")
            .expect("a kernel of ours");
        let function = self.driver.function(module, &known)?;
        for (extent, args) in [
            (Extent::row(1, 2048), &bytes[..]),
            (Extent::row(0, 32), &bytes[..]),
            (Extent::row(1, 32).with_shared(200 << 10), &bytes[..]),
            (Extent::row(1, 32), &bytes[..16]),
        ] {
            // SAFETY: it is refused.
            let refused = unsafe { self.driver.launch(function, extent, args, self.stream.id()) };
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("launch of add"), "{text}");
        }
        let unknown = v4_cuda::driver::Signature {
            name: "no_such_kernel",
            ..known
        };
        let text = self
            .driver
            .function(module, &unknown)
            .unwrap_err()
            .to_string();
        assert!(text.contains("no_such_kernel"), "{text}");
        self.driver.unload(module)?;
        self.driver.clear_error()?;
        self.add(&self.stream, &y, &x)?;
        self.expect(&y, 2.0)
    }

    fn threads(&self) -> Result<(), DriverError> {
        let (y, x) = (self.put(1.0)?, self.put(1.0)?);
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.add(&self.stream, &y, &x)?;
                self.stream.synchronize()
            });
            there.join().expect("no panic")
        })?;
        self.expect(&y, 2.0)
    }

    fn put(&self, value: f32) -> Result<DeviceBuffer<D>, DriverError> {
        let buffer = DeviceBuffer::new(&self.driver, 4 * LEN)?;
        let bytes = value.to_ne_bytes().repeat(LEN);
        buffer.write(&self.stream, 0, &bytes)?;
        Ok(buffer)
    }

    fn add(
        &self,
        stream: &Stream<D>,
        y: &DeviceBuffer<D>,
        x: &DeviceBuffer<D>,
    ) -> Result<(), DriverError> {
        let extent = Extent::row((LEN as u32).div_ceil(128), 128);
        // SAFETY: both have so many values, and are kept until the stream was waited for.
        unsafe { self.kernels.rows.add.launch(stream, extent, &add(y, x)) }
    }

    #[track_caller]
    fn expect(&self, buffer: &DeviceBuffer<D>, value: f32) -> Result<(), DriverError> {
        let mut bytes = vec![0; buffer.len()];
        buffer.read(&self.stream, 0, &mut bytes)?;
        for (i, word) in bytes.chunks_exact(4).enumerate() {
            let found = f32::from_ne_bytes(word.try_into().expect("four bytes"));
            assert_eq!(
                found.to_bits(),
                value.to_bits(),
                "value {i}: {found}, not {value}"
            );
        }
        Ok(())
    }
}

fn add<D: Driver>(y: &DeviceBuffer<D>, x: &DeviceBuffer<D>) -> Add {
    Add {
        y: y.start().0,
        x: x.start().0,
        count: LEN as u64,
    }
}
