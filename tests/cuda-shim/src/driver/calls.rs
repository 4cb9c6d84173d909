//! The calls, one by one.

use std::ptr::NonNull;
use std::sync::Arc;

use v4_cuda::driver::{
    Card, DevicePtr, Driver, DriverError, EventId, EventUse, ExecId, Extent, FunctionId, GraphId,
    HostMemory, Image, Memory, ModuleId, Signature, StreamId, code,
};

use super::capture::no;
use super::engine::Goal;
use super::failure::Failure;
use super::queue::open_stream;
use super::state::{Event, Function, Record, Stream, Work, handle};
use super::{Inner, Shim};
use crate::run::Kernel;

impl Driver for Shim {
    fn card(&self) -> &Card {
        &self.inner.card
    }

    fn memory(&self) -> Result<Memory, DriverError> {
        let _state = self.inner.begin("question for free memory")?;
        let total = self.inner.options.memory;
        let free = total.saturating_sub(self.inner.arena.used());
        Ok(Memory { free, total })
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        let call = "wait for the card";
        let mut state = self.inner.begin(call)?;
        state.counts.waits += 1;
        let allowed = state.outside_of_all_captures("a wait for the card");
        allowed.map_err(|why| why.of(call))?;
        self.inner.wait(state, Goal::All, call).map(drop)
    }

    fn clear_error(&self) -> Result<(), DriverError> {
        self.synchronize()
    }

    fn pause(&self) -> Result<(), DriverError> {
        self.inner.poll()
    }

    fn load(&self, module: &'static str, _images: &[Image]) -> Result<ModuleId, DriverError> {
        let mut state = self.inner.begin("loading of a module")?;
        let id = handle();
        state.modules.insert(id, module);
        Ok(ModuleId(id))
    }

    fn unload(&self, module: ModuleId) -> Result<(), DriverError> {
        let call = "unloading of a module";
        let mut state = self.inner.begin(call)?;
        let found = state.modules.remove(&module.0);
        state
            .functions
            .retain(|_, function| function.module != module.0);
        found.map(drop).ok_or_else(|| no("module").of(call))
    }

    fn function(&self, module: ModuleId, kernel: &Signature) -> Result<FunctionId, DriverError> {
        let call = format!("loading of {}", kernel.name);
        let mut state = self.inner.begin(&call)?;
        if !state.modules.contains_key(&module.0) {
            return Err(no("module").of(call));
        }
        let Some(found) = Kernel::named(kernel.name) else {
            return Err(Failure::new(code::NOT_FOUND, "there is no such kernel").of(call));
        };
        if found.args_size() != kernel.args_size {
            let (takes, given) = (found.args_size(), kernel.args_size);
            let text = format!("it takes {takes} bytes of arguments, not {given}");
            return Err(Failure::invalid(text).of(call));
        }
        let id = handle();
        let function = Function {
            module: module.0,
            kernel: found,
            signature: *kernel,
        };
        state.functions.insert(id, function);
        Ok(FunctionId(id))
    }

    unsafe fn launch(
        &self,
        function: FunctionId,
        extent: Extent,
        args: &[u8],
        stream: StreamId,
    ) -> Result<(), DriverError> {
        let mut state = self.inner.begin("launch of a kernel")?;
        let Some(function) = state.functions.get(&function.0).copied() else {
            return Err(no("kernel").of("launch of a kernel"));
        };
        state.counts.launches += 1;
        let call = format!("launch of {}", function.kernel.name());
        let refused = |why| DriverError::Refused {
            call: call.clone(),
            why,
        };
        extent.check().map_err(refused)?;
        if args.len() != function.signature.args_size {
            let takes = function.signature.args_size;
            let why = format!("it takes {takes} bytes of arguments, not {}", args.len());
            return Err(refused(why));
        }
        let known = self.inner.check_addresses(&function, args);
        known.map_err(|why| why.of(&*call))?;
        let work = Work::Kernel {
            function,
            extent,
            args: args.to_vec(),
        };
        let put = self.inner.put(state, stream, work);
        put.map_err(|why| why.of(call))
    }

    fn stream_create(&self) -> Result<StreamId, DriverError> {
        let mut state = self.inner.begin("new stream")?;
        let id = handle();
        state.streams.insert(id, Stream::default());
        Ok(StreamId(id))
    }

    fn stream_destroy(&self, stream: StreamId) -> Result<(), DriverError> {
        let call = "end of a stream";
        let mut state = self.inner.begin(call)?;
        let allowed = state.outside_of_captures(stream.0, "the end of a stream");
        allowed.map_err(|why| why.of(call))?;
        let open = open_stream(&mut state, stream).map_err(|why| why.of(call))?;
        open.given_back = true;
        if open.queue.is_empty() {
            state.streams.remove(&stream.0);
        }
        Ok(())
    }

    fn stream_synchronize(&self, stream: StreamId) -> Result<(), DriverError> {
        let call = "wait for a stream";
        let mut state = self.inner.begin(call)?;
        state.counts.waits += 1;
        let allowed = state.outside_of_captures(stream.0, "a wait for a stream");
        allowed.map_err(|why| why.of(call))?;
        let open = open_stream(&mut state, stream).map_err(|why| why.of(call))?;
        let goal = Goal::Stream(stream.0, open.queued);
        self.inner.wait(state, goal, call).map(drop)
    }

    fn stream_query(&self, stream: StreamId) -> Result<bool, DriverError> {
        let call = "question whether a stream is done";
        let mut state = self.inner.begin(call)?;
        let allowed = state.outside_of_captures(stream.0, "a question for a stream");
        allowed.map_err(|why| why.of(call))?;
        let open = open_stream(&mut state, stream).map_err(|why| why.of(call))?;
        let (queued, done) = (open.queued, open.queue.is_empty());
        let goal = Goal::Stream(stream.0, queued);
        drop(self.inner.advance(state, goal));
        Ok(done)
    }

    fn stream_wait_event(&self, stream: StreamId, event: EventId) -> Result<(), DriverError> {
        let call = "wait of a stream for an event";
        let mut state = self.inner.begin(call)?;
        let captured = open_stream(&mut state, stream).map_err(|why| why.of(call))?;
        let capture = captured.capture.clone();
        let Some(found) = state.events.get(&event.0) else {
            return Err(no("event").of(call));
        };
        let done = match (found.record.clone(), capture) {
            (Record::None, _) => Ok(()),
            (Record::Captured(part), _) => state.join(stream.0, part),
            (Record::Queued(_), Some((capture, _))) => {
                let why = "a captured stream waits for an event that was recorded outside";
                state.spoil(capture, why);
                Err(Failure::new(code::STREAM_CAPTURE_ISOLATION, why))
            }
            (Record::Queued(record), None) => self.inner.put(state, stream, Work::Await(record)),
        };
        done.map_err(|why| why.of(call))
    }

    unsafe fn stream_wait_value(
        &self,
        stream: StreamId,
        address: DevicePtr,
        value: u32,
    ) -> Result<(), DriverError> {
        let call = "wait of a stream for a value";
        let mut state = self.inner.begin(call)?;
        let failed = |why: Failure| why.of(call);
        if !self.inner.options.can_wait_value {
            let text = "this card does not support it";
            return Err(failed(Failure::new(code::NOT_SUPPORTED, text)));
        }
        let allowed = state.outside_of_captures(stream.0, "a wait for a value");
        allowed.map_err(failed)?;
        let address = address.0 as usize;
        if !address.is_multiple_of(4) {
            return Err(failed(Failure::invalid("a word that is not aligned")));
        }
        self.inner.check_device(address, 4).map_err(failed)?;
        let work = Work::AwaitValue { address, value };
        self.inner.put(state, stream, work).map_err(failed)
    }

    fn event_create(&self, usage: EventUse) -> Result<EventId, DriverError> {
        let mut state = self.inner.begin("new event")?;
        let id = handle();
        let event = Event {
            record: Record::None,
            timing: usage.timing,
        };
        state.events.insert(id, event);
        Ok(EventId(id))
    }

    fn event_destroy(&self, event: EventId) -> Result<(), DriverError> {
        let call = "end of an event";
        let mut state = self.inner.begin(call)?;
        let Some(event) = state.events.remove(&event.0) else {
            return Err(no("event").of(call));
        };
        state.forget(&event.record);
        Ok(())
    }

    fn event_record(&self, event: EventId, stream: StreamId) -> Result<(), DriverError> {
        let call = "record of an event";
        let mut state = self.inner.begin(call)?;
        open_stream(&mut state, stream).map_err(|why| why.of(call))?;
        let Some(former) = state.events.get(&event.0).map(|event| event.record.clone()) else {
            return Err(no("event").of(call));
        };
        state.forget(&former);
        let captured = state.record_of(stream.0);
        let id = handle();
        let record = captured.clone().unwrap_or(Record::Queued(id));
        let event = state.events.get_mut(&event.0).expect("just looked up");
        event.record = record;
        if captured.is_some() {
            return Ok(());
        }
        state.records.insert(id, None);
        let put = self.inner.put(state, stream, Work::Reach(id));
        put.map_err(|why| why.of(call))
    }

    fn event_query(&self, event: EventId) -> Result<bool, DriverError> {
        let call = "question whether an event is reached";
        let mut state = self.inner.begin(call)?;
        let goal = Inner::reach(&mut state, event, "a question for an event");
        let Some(goal) = goal.map_err(|why| why.of(call))? else {
            return Ok(true);
        };
        let done = matches!(goal, Goal::Record(record) if state.is_reached(record));
        drop(self.inner.advance(state, goal));
        Ok(done)
    }

    fn event_synchronize(&self, event: EventId) -> Result<(), DriverError> {
        let call = "wait for an event";
        let mut state = self.inner.begin(call)?;
        state.counts.waits += 1;
        let goal = Inner::reach(&mut state, event, "a wait for an event");
        match goal.map_err(|why| why.of(call))? {
            Some(goal) => self.inner.wait(state, goal, call).map(drop),
            None => Ok(()),
        }
    }

    fn elapsed(&self, start: EventId, end: EventId) -> Result<f32, DriverError> {
        let call = "time between events";
        let state = self.inner.begin(call)?;
        let reached = |id: EventId| -> Result<_, Failure> {
            let event = state.events.get(&id.0).ok_or_else(|| no("event"))?;
            if !event.timing {
                return Err(no("event that was not made for timing"));
            }
            match event.record {
                Record::Queued(record) => match state.records.get(&record) {
                    Some(Some(at)) => Ok(*at),
                    _ => Err(Failure::new(code::NOT_READY, "it has not been reached")),
                },
                _ => Err(no("event that was not recorded")),
            }
        };
        let (start, end) = (reached(start), reached(end));
        let (start, end) = (start.map_err(|w| w.of(call))?, end.map_err(|w| w.of(call))?);
        Ok(end.saturating_duration_since(start).as_secs_f32() * 1000.0)
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), DriverError> {
        let call = "begin of a capture";
        let mut state = self.inner.begin(call)?;
        state.begin_capture(stream.0).map_err(|why| why.of(call))
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DriverError> {
        let call = "end of a capture";
        let mut state = self.inner.begin(call)?;
        let graph = state.end_capture(stream.0);
        graph.map(GraphId).map_err(|why| why.of(call))
    }

    fn instantiate(&self, graph: GraphId) -> Result<ExecId, DriverError> {
        let call = "instantiation of a graph";
        let mut state = self.inner.begin(call)?;
        let Some(nodes) = state.graphs.get(&graph.0).map(Arc::clone) else {
            return Err(no("graph").of(call));
        };
        let id = handle();
        state.execs.insert(id, nodes);
        Ok(ExecId(id))
    }

    fn graph_destroy(&self, graph: GraphId) -> Result<(), DriverError> {
        let call = "end of a captured graph";
        let mut state = self.inner.begin(call)?;
        let found = state.graphs.remove(&graph.0);
        found.map(drop).ok_or_else(|| no("graph").of(call))
    }

    fn exec_destroy(&self, exec: ExecId) -> Result<(), DriverError> {
        let call = "end of a graph";
        let mut state = self.inner.begin(call)?;
        let runs =
            |work: &Work| matches!(work, Work::Graph { exec: other, .. } if *other == exec.0);
        if state.stream_with(runs).is_some() {
            return Err(Failure::invalid("it is running").of(call));
        }
        let found = state.execs.remove(&exec.0);
        found.map(drop).ok_or_else(|| no("graph").of(call))
    }

    unsafe fn graph_launch(&self, exec: ExecId, stream: StreamId) -> Result<(), DriverError> {
        let call = "launch of a graph";
        let mut state = self.inner.begin(call)?;
        let failed = |why: Failure| why.of(call);
        let Some(nodes) = state.execs.get(&exec.0).map(Arc::clone) else {
            return Err(failed(no("graph")));
        };
        let allowed = state.outside_of_captures(stream.0, "the launch of a graph");
        allowed.map_err(failed)?;
        state.counts.graph_launches += 1;
        if state.faults.graph_launch == Some(state.counts.graph_launches) {
            let text = "refused on purpose";
            return Err(failed(Failure::new(code::LAUNCH_OUT_OF_RESOURCES, text)));
        }
        let work = Work::Graph {
            exec: exec.0,
            done: vec![false; nodes.len()],
            nodes,
        };
        self.inner.put(state, stream, work).map_err(failed)
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        let call = format!("allocation of {bytes} bytes on the card");
        let mut state = self.inner.begin(&call)?;
        let failed = |why: Failure| why.of(&*call);
        let allowed = state.outside_of_all_captures("an allocation");
        allowed.map_err(failed)?;
        state.counts.allocations += 1;
        if bytes == 0 {
            return Err(failed(Failure::invalid("no bytes at all")));
        }
        if state.faults.allocation == Some(state.counts.allocations) {
            let text = "refused on purpose";
            return Err(failed(Failure::new(code::OUT_OF_MEMORY, text)));
        }
        let free = self
            .inner
            .options
            .memory
            .saturating_sub(self.inner.arena.used());
        if bytes.next_multiple_of(256) as u64 > free {
            let text = format!("{free} bytes are free");
            return Err(failed(Failure::new(code::OUT_OF_MEMORY, text)));
        }
        match self.inner.arena.allocate(bytes) {
            Some(start) => Ok(DevicePtr(start as u64)),
            None => Err(failed(Failure::new(
                code::OUT_OF_MEMORY,
                "no addresses are left",
            ))),
        }
    }

    unsafe fn free(&self, address: DevicePtr) -> Result<(), DriverError> {
        let call = "giving back memory of the card";
        let mut state = self.inner.begin(call)?;
        let failed = |why: Failure| why.of(call);
        let allowed = state.outside_of_all_captures("giving back memory");
        allowed.map_err(failed)?;
        let freed = self.inner.arena.free(address.0 as usize);
        freed.map_err(|why| failed(Failure::invalid(format!("{:#x} is {why}", address.0))))
    }

    fn host_allocate(&self, bytes: usize) -> Result<HostMemory, DriverError> {
        let call = format!("allocation of {bytes} bytes of pinned memory");
        let mut state = self.inner.begin(&call)?;
        let failed = |why: Failure| why.of(&*call);
        let allowed = state.outside_of_all_captures("an allocation");
        allowed.map_err(failed)?;
        state.refuse_pinning().map_err(failed)?;
        let start = self.inner.host.allocate(bytes, self.inner.options.pinned);
        let host = start.map_err(failed)?;
        let device = DevicePtr(host.addr().get() as u64);
        Ok(HostMemory { host, device })
    }

    unsafe fn host_free(&self, memory: HostMemory) -> Result<(), DriverError> {
        let call = "giving back pinned memory";
        let mut state = self.inner.begin(call)?;
        let allowed = state.outside_of_all_captures("giving back memory");
        allowed.map_err(|why| why.of(call))?;
        let freed = self.inner.host.free(memory.host.addr().get());
        freed.map_err(|why| why.of(call))
    }

    unsafe fn host_register(
        &self,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<DevicePtr, DriverError> {
        let call = format!("pinning of {bytes} bytes");
        let mut state = self.inner.begin(&call)?;
        let failed = |why: Failure| why.of(&*call);
        let allowed = state.outside_of_all_captures("pinning");
        allowed.map_err(failed)?;
        if !self.inner.options.can_register {
            let text = "this system does not support it";
            return Err(failed(Failure::new(code::NOT_SUPPORTED, text)));
        }
        state.refuse_pinning().map_err(failed)?;
        let address = start.addr().get();
        let host = &self.inner.host;
        let done = host.register(address, bytes, self.inner.options.pinned);
        done.map_err(failed)?;
        Ok(DevicePtr(address as u64))
    }

    unsafe fn host_unregister(&self, start: NonNull<u8>) -> Result<(), DriverError> {
        let call = "unpinning of memory";
        let mut state = self.inner.begin(call)?;
        let allowed = state.outside_of_all_captures("unpinning");
        allowed.map_err(|why| why.of(call))?;
        let done = self.inner.host.unregister(start.addr().get());
        done.map_err(|why| why.of(call))
    }

    unsafe fn copy_to_device(
        &self,
        to: DevicePtr,
        from: NonNull<u8>,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        let call = "copy to the card";
        let state = self.inner.begin(call)?;
        let (to, from) = (to.0 as usize, from.addr().get());
        let work = Work::ToDevice { to, from, bytes };
        self.inner.transfer(state, stream, from, to, work, call)
    }

    unsafe fn copy_to_host(
        &self,
        to: NonNull<u8>,
        from: DevicePtr,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        let call = "copy from the card";
        let state = self.inner.begin(call)?;
        let (to, from) = (to.addr().get(), from.0 as usize);
        let work = Work::ToHost { to, from, bytes };
        self.inner.transfer(state, stream, to, from, work, call)
    }

    unsafe fn copy(
        &self,
        to: DevicePtr,
        from: DevicePtr,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        let call = "copy on the card";
        let state = self.inner.begin(call)?;
        let failed = |why: Failure| why.of(call);
        let (to, from) = (to.0 as usize, from.0 as usize);
        self.inner.check_device(to, bytes).map_err(failed)?;
        self.inner.check_device(from, bytes).map_err(failed)?;
        if to < from + bytes && from < to + bytes {
            return Err(failed(Failure::invalid("both sides overlap")));
        }
        let work = Work::Within { to, from, bytes };
        self.inner.put(state, stream, work).map_err(failed)
    }

    unsafe fn fill(
        &self,
        to: DevicePtr,
        value: u8,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        let call = "fill on the card";
        let state = self.inner.begin(call)?;
        let failed = |why: Failure| why.of(call);
        let to = to.0 as usize;
        self.inner.check_device(to, bytes).map_err(failed)?;
        let work = Work::Fill { to, value, bytes };
        self.inner.put(state, stream, work).map_err(failed)
    }
}
